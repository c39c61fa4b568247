"""One cluster on loopback, as the rows use it: all that they need of the miniature is in this file."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles
from tests.assembly import processes
from tests.assembly.miniature import GUEST, Miniature, Node, Tools, bake_miniature
from tests.chaos.shim import Desk
from tests.chaos.witness import PREFIX, Guard, Watch, Writer

_subnets = count(1)
_lock = threading.Lock()


class TrialError(AssertionError):
    """The cluster did what it must not, or not what it must."""


class Interrupted(BaseException):
    """The run was asked to end."""


def next_subnet() -> str:
    """A /24 that no other cluster of this process uses; two processes at once are rarely in the same /16."""
    with _lock:
        number = next(_subnets)
    return f"127.{110 + os.getpid() % 60}.{number % 254 + 1}.0/24"


class World:
    """The nodes of one cluster, and who looks on.

    `members` are those that the cluster is to consist of in the end.
    """

    def __init__(
        self, folder: Path, nodes: int, tools: Tools, over: threading.Event, *, guest: Path | None, limit: float
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.over, self.limit = folder, over, limit
        self.subnet = next_subnet()
        self.cluster: Miniature = bake_miniature(folder, self.subnet, nodes, tools)
        self.nodes: list[Node] = self.cluster.nodes
        self.members: list[Node] = list(self.nodes)
        self.planned = nodes  # more than that are never listed
        self._always = False
        if guest:
            self._use(guest)
        self.desks = {node.plan.name: Desk(node) for node in self.nodes}
        pki = self.nodes[0].root / "etc/etcd/pki"
        self.files = ClientFiles(
            ca=pki / "etcd-ca.pem", cert=pki / "etcd-client.pem", key=pki / "etcd-client.key"
        )
        urls = [node.plan.client_url for node in self.nodes]
        self.writer, self.watch = Writer(urls, self.files), Watch(urls, self.files)
        self.guard = Guard(self.disk(node) for node in self.nodes)
        self._minder = threading.Thread(target=self._mind, daemon=True)
        self._closed = threading.Event()

    def _use(self, guest: Path) -> None:
        """Run the hooks of this folder instead, and restart as the unit in it says."""
        for node in self.nodes:
            node.hook = _hook_in(guest, node.hook)  # type: ignore[method-assign]
        self._always = bool(re.search(r"^Restart=always$", (guest / "etcd.service.j2").read_text(), re.M))

    # ── switching ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, order: Sequence[Node]) -> None:
        if self.writer.ident is None:  # the first time
            for witness in (self.writer, self.watch, self.guard):
                witness.start()
            if self._always:
                self._minder.start()
        self.cluster.start(order)

    def cut(self, node: Node) -> None:
        """Power off. The seed stays attached."""
        node.cut_power()
        processes.sweep(node.root)

    def disk(self, node: Node) -> Path:
        return node.root / "var/lib/etcd"

    def wipe(self, node: Node) -> None:
        """A new disk, and no power."""
        self.cut(node)
        with self.guard.forgiving(self.disk(node)):
            shutil.rmtree(self.disk(node))
        self.disk(node).mkdir()
        node.records.clear()

    def permit(self, node: Node, allowed: bool) -> None:
        """Attach the original seed, or the sealed one, while the node is off: its next boot reads it."""
        node.sealed = not allowed
        node.permit.unlink(missing_ok=True)
        node._copy_permit()

    def running(self, node: Node, *kinds: str) -> list[processes.Found]:
        """Its processes of these kinds that can be killed one by one."""
        found = processes.below(node.root)
        return [some for some in found if some.kind in kinds and (some.leads or some.kind == "etcdctl")]

    def close(self) -> None:
        self._closed.set()
        for witness in (self.writer, self.watch):
            witness.over.set()
        with suppress(Exception):
            self.cluster.stop()
        processes.sweep(self.folder)
        for thread in (self.writer, self.watch, self.guard):
            thread.stop()
        if self._minder.is_alive():
            self._minder.join(10)

    def _mind(self) -> None:
        """Restart=always, where the hooks' folder has it: the miniature restarts after a failure alone."""
        while not self._closed.wait(0.25):
            for node in self.nodes:
                if node.on and not node.running():
                    node.start()

    # ── waiting and asking ──────────────────────────────────────────────────────────────────────────────────────────

    def sleep(self, seconds: float) -> None:
        if self.over.wait(seconds):
            raise Interrupted

    def wait(self, condition: Callable[[], object], seconds: float, what: str, *, pause: float = 0.05) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TrialError(f"not within {seconds:g} s: {what}\n{self.story()}")
            self.sleep(pause)

    def story(self) -> str:
        """What the nodes said last."""
        return "\n".join(f"{node.plan.name}{'' if node.on else ' (off)'}: {node.records[-4:]}" for node in self.nodes)

    def ask(self, node: Node) -> Etcd:
        return Etcd(node.plan.client_url, self.files, timeout=QUICK_CHECK)

    def flaw(self, members: Iterable[Node] | None = None) -> str:
        """Why the cluster is not whole yet; nothing when it is."""
        nodes = list(members if members is not None else self.members)
        planned = sorted(node.plan.name for node in nodes)
        for node in nodes:
            try:
                with self.ask(node) as etcd:
                    if etcd.status().is_learner:
                        return f"{node.plan.name} is a learner"
                    listed = etcd.members()
            except EtcdError as error:
                return str(error)
            if sorted(member.name for member in listed) != planned or any(member.is_learner for member in listed):
                return f"{node.plan.name} lists {[(m.name, m.is_learner) for m in listed]}"
        return ""

    def listed(self, via: Node) -> dict[str, int]:
        """The member list now: name → id. Asked, because what `watch` saw last may be older. Waits for an answer."""
        found: dict[str, int] = {}

        def answered() -> bool:
            with suppress(EtcdError), self.ask(via) as etcd:
                found.update({member.name: member.id for member in etcd.members()})
            return bool(found)

        self.wait(answered, self.limit, f"{via.plan.name} lists the members")
        return found

    def converge(self) -> float:
        """Wait until the cluster is whole, then judge the end. Seconds that it took from now."""
        took = self.become_whole()
        self.judge()
        return took

    def become_whole(self) -> float:
        """Seconds until each member answers, votes, and lists all of them and no other."""
        started = time.monotonic()
        self._wait_until_nothing(self.flaw, "the cluster is whole", pause=0.1)
        return time.monotonic() - started

    def _wait_until_nothing(self, flaw: Callable[[], str], what: str, *, pause: float) -> None:
        """Wait until `flaw` returns an empty text. A failure begins with its last one."""
        last = ""

        def passed() -> bool:
            nonlocal last
            last = flaw()
            return not last

        try:
            self.wait(passed, self.limit, what, pause=pause)
        except TrialError as failed:
            raise TrialError(f"{last}: {failed}") from None

    def judge(self) -> None:
        """The end check: whole, once, and nothing lost."""
        self.sleep(0.3)
        self.writer.stop()
        self.watch.look()
        self.guard.look()
        problems: list[str] = []

        def unanswered() -> str:
            if flaw := self.flaw():  # on a busy machine a leader may be elected anew at any time
                return flaw
            try:
                problems[:] = self._problems()
            except EtcdError as error:
                return str(error)
            return ""

        self._wait_until_nothing(unanswered, "the end check is answered", pause=0.2)
        if problems:
            raise TrialError("; ".join(problems) + f"\n{self.story()}")

    def _problems(self) -> Iterable[str]:
        clients = {node.plan.name: self.ask(node) for node in self.members}
        try:
            states = {name: client.status() for name, client in clients.items()}
            if len(ids := {state.cluster_id for state in states.values()} | self.watch.cluster_ids) != 1:
                yield f"{len(ids)} clusters: {', '.join(f'{some:x}' for some in sorted(ids))}"
            kept = {name: client.get(PREFIX, prefix=True, keys_only=True) for name, client in clients.items()}
            for name, keys in kept.items():
                lost = self.writer.acknowledged.keys() - {item.key for item in keys.items}
                if lost:
                    yield f"{name} has lost {len(lost)} acknowledged writes, such as {min(lost).decode()}"
            revision = max(keys.revision for keys in kept.values())
            hashes = {name: client.hash_kv(revision).hash for name, client in clients.items()}
            if len(set(hashes.values())) != 1:
                yield f"data differ: {hashes}"
        finally:
            for client in clients.values():
                client.close()
        if self.watch.most > self.planned:
            yield f"there were {self.watch.most} members once, more than the {self.planned} planned"
        if strange := self.watch.names - {node.plan.name for node in self.nodes} - {""}:
            yield f"strangers were members: {sorted(strange)}"
        if deleted := self.guard.deleted():
            yield f"data was deleted: {', '.join(map(str, deleted))}"

    def wait_for_writes(self) -> None:
        """Until the first write is acknowledged: the cluster lives."""
        self.wait(lambda: self.writer.acknowledged, self.limit, "a write is acknowledged")

    # ── an operator, and changes to a seed ──────────────────────────────────────────────────────────────────────────

    def remove(self, gone: Node, via: Node) -> int:
        """etcdctl member remove; refused until all others have been connected for five seconds. The removed id."""
        member = self.listed(via)[gone.plan.name]

        def is_removed() -> bool:
            answer = self.cluster.etcdctl(via, "member", "remove", f"{member:x}", check=False)
            return "removed" in answer or "member not found" in answer  # an earlier try, whose answer was late

        self.wait(is_removed, self.limit, "it is removed", pause=0.5)
        return member

    def rewrite(self, node: Node, *changes: tuple[str, str]) -> None:
        """Replace texts in the node's settings, all at once; each must occur."""
        texts = {path: path.read_text() for path in (node.root / "etc/etcd").iterdir() if path.is_file()}
        new = dict(changes)
        for old in new:
            if not any(old in text for text in texts.values()):
                raise TrialError(f"{old} is not in the settings of {node.plan.name}")
        pattern = re.compile("|".join(re.escape(old) for old in new))
        for path, text in texts.items():
            path.write_text(pattern.sub(lambda match: new[match[0]], text))

    def set(self, node: Node, file: str, name: str, value: str) -> None:
        """Give one setting another value."""
        path = node.root / "etc/etcd" / file
        text, changed = re.subn(rf"^{name}=.*$", f"{name}={shlex.quote(value)}", path.read_text(), flags=re.M)
        if changed != 1:
            raise TrialError(f"{name} is not in {file}")
        path.write_text(text)


QUICK_CHECK = (2.0, 8.0)


def _hook_in(guest: Path, stock: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    return lambda name: [word.replace(str(GUEST), str(guest)) for word in stock(name)]


def shuffled(nodes: Sequence[Node], rng: random.Random) -> list[Node]:
    return rng.sample(list(nodes), len(nodes))
