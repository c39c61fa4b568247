"""A lab in which `bake apply` changes a running cluster, while a writer records what its clients notice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self

from generator.config.load import load
from generator.operations.baked_cluster import open_cluster
from generator.plan import ClusterPlan, plan_cluster
from generator.store.folder import Store
from tests.assembly.linearizable import Op, flaws
from tests.assembly.nspawn_engine import Machines, NspawnEngine
from tests.assembly.nspawn_lab import PATIENCE
from tests.assembly.remote import Remote, served
from tests.output_schema import check_output

MOST_NODES = 5
_STEP = re.compile(r"\s*[\d.]+ s  (\S+): (add|remove|update|replace|start)\b")
_numbers = count(1)


def most_nodes() -> ClusterPlan:
    """Return a plan that has every node that a test may need."""
    return plan_cluster(load(flags={"--nodes": (("nodes",), MOST_NODES)}).spec)


def _with_options(command: tuple[str, ...]) -> tuple[str, ...]:
    """Add the options that a command needs without a terminal. `--wait` has a high default here."""
    consent = () if command[0] == "certs" else ("--yes",)
    return (*command, *consent, "-o", "json", *(() if "--wait" in command else ("--wait", "600")))


@dataclass
class Ended:
    """An ended run of bake. `lines`: its stderr, each line with the time at which it was printed."""

    code: int
    stdout: str
    lines: list[tuple[float, str]]

    @property
    def stderr(self) -> str:
        return "".join(line for _, line in self.lines)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.stdout)


@dataclass
class Written:
    """What a writer has seen. `gaps`: start and length of each long gap between two writes, in seconds.

    `found`: the number of keys at the end. A write without an answer may have taken effect, so it may be `done` + 1.
    `history`: the operations of other clients, as `linearizable.Op`.
    """

    done: int
    refused: int
    gaps: list[tuple[float, float]]
    missing: list[int]
    causes: dict[str, int]
    found: int
    history: list[list[Any]]

    def longest(self, begin: float = 0, end: float = float("inf")) -> float:
        """Return the longest gap in a period, or 0 if all gaps were too short to be noted."""
        return max((length for start, length in self.gaps if start < end and start + length > begin), default=0)


@dataclass
class ChangeLab:
    """A cluster that bake changes. `kept`: the prefix and the number of the keys of every earlier writer."""

    lab: Machines
    store: Store
    socket: Path
    client: str = "etcd-client"  # the certificate of the writers
    kept: dict[str, int] = field(default_factory=dict)
    say: Callable[[str], None] = print
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)  # values of the cluster file that a test changes
    took: dict[str, float] = field(default_factory=dict)  # the seconds of the last run of each command

    @classmethod
    @contextmanager
    def booted(cls, root: Path, work: Path, *words: str) -> Iterator[Self]:
        """A sealed cluster of one booted node. `words`: options of `bake`."""
        lab = Machines(most_nodes(), work / "out/etcd", root=root, work=work / "nodes")
        with cls.begun(lab, work, *words) as here:
            yield here

    @classmethod
    @contextmanager
    def begun(
        cls, machines: Machines, work: Path, *words: str, say: Callable[[str], None] = print
    ) -> Iterator[Self]:
        """A sealed cluster with one node of the machines."""
        with cls.blank(machines, work, say=say) as here:
            here.make_seeds(1, *words)
            here.assemble("etcd1")
            yield here

    @classmethod
    @contextmanager
    def blank(cls, machines: Machines, work: Path, *, say: Callable[[str], None] = print) -> Iterator[Self]:
        """Machines without a cluster."""
        with machines as lab, served(lab, work / "socket"):
            yield cls(lab, Store(work / "out", "etcd"), work / "socket", say=say)

    def make_seeds(self, nodes: int, *words: str) -> None:
        assert self.bake("--nodes", str(nodes), *words).code == 0

    def assemble(self, *nodes: str, fault: Callable[[], object] = lambda: None) -> None:
        """Start the nodes, call `fault`, wait until all nodes vote, and seal the cluster."""
        engine = self.engine()
        engine.create(*nodes)
        fault()
        self.took["assemble"] = took = self.lab.wait_for("settled", *nodes, timeout=120)
        self.say(f"{' '.join(nodes)}: {took:.1f} s until settled")
        for node in nodes:
            engine.remove_seed(node)
        assert self.bake("seal").code == 0

    def engine(self) -> NspawnEngine:
        cluster = open_cluster(self.store)
        return NspawnEngine(
            plan=cluster.plan, seeds=self.store.folder, lab=self.lab, work=self.lab.work, report=self.say
        )  # fmt: skip

    def bake(self, *words: str) -> Ended:
        return self._end(self.start(*words))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start bake in the nodes' network, without a terminal."""
        driver = [sys.executable, "-m", "tests.assembly.apply_driver", str(self.socket), str(self.lab.work)]
        command = ["ip", "netns", "exec", self.lab.hub, *driver, *words, "--out", str(self.store.out)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Kill every process of bake and every writer, so that a test that waits for them ends."""
        for process in self.started:
            process.kill()

    def _end(self, process: subprocess.Popen[str]) -> Ended:
        assert process.stderr
        assert process.stdout
        with process:
            lines = [(time.time(), line) for line in process.stderr]
            ended = Ended(code=process.wait(), stdout=process.stdout.read(), lines=lines)
        if ended.stdout.startswith("{") and ended.code >= 0:
            words = [*map(str, process.args)]  # type: ignore[arg-type]
            check_output(words[words.index("tests.assembly.apply_driver") + 3 :], ended.stdout)
        return ended

    def change(self, *command: str) -> list[tuple[str, str]]:
        """Run a command of bake, which must succeed. Print what clients noticed. Return the steps as (action, node)."""
        begin = time.monotonic()
        with self.writing() as writer:
            done = self.bake(*_with_options(command))
            seen = self.end(writer)
        assert done.code == 0, done.stderr
        self._print_effects(command, done, seen)
        self.took[command[0]] = time.monotonic() - begin
        return [(step["action"], step["node"]) for step in done.data.get("steps", ())]

    def _print_effects(self, command: tuple[str, ...], done: Ended, seen: Written) -> None:
        steps = [(when, *found.groups()) for when, line in done.lines if (found := _STEP.match(line))]
        ends = [when for when, *_ in (*steps[1:], (time.time(),))][: len(steps)]
        head, gap = f"{seen.done} writes, {seen.refused} refused", seen.longest()
        self.say(f"\n{' '.join(command)}: {head}, longest gap {gap:.2f} s")
        for (when, node, action), end, step in zip(steps, ends, done.data.get("steps", ()), strict=True):
            assert (node, action) == (step["node"], step["action"])
            gap, level = seen.longest(when, end), f" ({step['level']})" if step["level"] else ""
            self.say(f"  {node} {action}{level}: {end - when:.1f} s; declared: {step['effect']}; measured: {gap:.2f} s")
        for cause, times in seen.causes.items():
            self.say(f"    {times} × {cause}")

    def kill(
        self, random: Random, seconds: float, *words: str, again: Sequence[tuple[str, ...]], nodes: Sequence[str] = ()
    ) -> str:
        """Kill a run of bake at a random moment, up to `seconds` after its start. The commands `again` must finish.

        `nodes`: instead of bake, or together with bake, one of these nodes may lose its power. Return what happened.
        """
        kills_bake, victim = True, ""
        if nodes:
            kills_bake, cuts = random.choice(((True, False), (False, True), (True, True)))
            victim = random.choice(nodes) if cuts else ""

        def fault(process: subprocess.Popen[str]) -> str:
            if kills_bake:
                process.kill()
            if victim:
                self.cut(victim)
            return f"{' and '.join(filter(None, ('bake' if kills_bake else '', victim)))} killed"

        return self.disturb(random.uniform(0, seconds), fault, *words, again=again)

    def disturb(
        self, moment: float, fault: Callable[[subprocess.Popen[str]], str], *words: str,
        again: Sequence[tuple[str, ...]],
    ) -> str:  # fmt: skip
        """Run bake, and call `fault` with its process after `moment` seconds. Then the commands `again` must succeed.

        `fault` returns what it did. Return what happened.
        """
        with self.writing() as writer:
            process = self.start(*_with_options(words))
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            late = ", after its end" if process.poll() is not None else ""
            done = fault(process)
            first = self._end(process)
            others = [self.bake(*_with_options(each)) for each in again]
            seen = self.end(writer)
        last = f", after: {first.lines[-1][1].strip()}" if first.lines and first.code < 0 else ""
        command = " ".join(Path(word).name for word in words)
        label = f"{command}: {done} at {moment:.1f} s{late}{last}; longest gap {seen.longest():.2f} s"
        self.say(f"\n{label}")
        for other in others:
            assert other.code == 0, f"{label}\n{first.stderr}\n--- again\n{other.stderr}"
        return label

    def cut(self, node: str) -> None:
        """Cut the power of a node that runs. bake may change the machines at the same time."""
        Remote(self.socket).cut_if_running(node)

    def spec_file(self, text: str) -> str:
        """Write a cluster file and return its path."""
        path = self.store.out.with_name("cluster.yaml")
        path.write_text(text)
        return str(path)

    @contextmanager
    def writing(self) -> Iterator[subprocess.Popen[str]]:
        """Write unique keys through the nodes that the cluster has or may get."""
        prefix = f"unique/{next(_numbers)}/"
        urls = [node.client_url for node in self.lab.plan.nodes]
        writer = [sys.executable, "-m", "tests.assembly.unique_writer", str(self.store.folder / "pki"), self.client]
        command = ["ip", "netns", "exec", self.lab.hub, *writer, prefix, *urls]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            process.prefix = prefix
            self.started.append(process)
            try:
                yield process
            finally:
                process.kill()

    def end(self, writer: subprocess.Popen[str]) -> Written:
        """End a writer. No acknowledged key may be missing, and the other clients' history must be linearizable."""
        seen = Written(**json.loads(writer.communicate("")[0]))
        assert seen.missing == []
        assert seen.done > 0
        history = [Op(*each) for each in seen.history]
        assert flaws(history) == []
        assert any(op.is_write for op in history)
        assert any(not op.is_write for op in history)
        self.kept[writer.prefix] = seen.found
        return seen

    def write_megabytes(self, number: int, node: str) -> None:
        """Write values of one MiB through a node. A value that the node does not take within seconds is left out."""
        code = (
            "import sys; from contextlib import suppress; from pathlib import Path\n"
            "from generator.errors import BakeError; from generator.etcd.client import Etcd\n"
            "from generator.operations.baked_cluster import client_files\n"
            "with Etcd(sys.argv[1], client_files(Path(sys.argv[2]))) as etcd:\n"
            f"    for number in range({number}):\n"
            "        with suppress(BakeError):\n"
            "            etcd.put(b'filler', bytes([number]) * (1 << 20))\n"
        )
        url = next(one.client_url for one in self.lab.plan.nodes if one.name == node)
        self.lab.run(sys.executable, "-c", code, url, str(self.store.folder))

    def members(self) -> list[str]:
        """Return the names of the members, with a question mark for each learner."""
        return sorted(self.ask("*(f'{one.name}{\"?\" * one.is_learner}' for one in etcd.members())").split())

    def must_have_all_keys(self) -> None:
        """Fail if a key of an earlier writer is missing. A write that had no answer may add a key later."""
        found = self.counts(*self.kept)
        assert {prefix: found[prefix] for prefix, number in self.kept.items() if found[prefix] < number} == {}

    def count(self, prefix: str) -> int:
        """Return the number of keys that begin with `prefix`."""
        return self.counts(prefix)[prefix]

    def counts(self, *prefixes: str) -> dict[str, int]:
        """Return the number of keys that begin with each prefix."""
        get = "etcd.get(one.encode(), prefix=True, keys_only=True).count"
        numbers = self.ask(f"*({get} for one in {prefixes!r})").split()
        return dict(zip(prefixes, map(int, numbers), strict=True))

    def ask(self, expression: str) -> str:
        """Return what an expression with the client `etcd` of the first node prints, in the nodes' network."""
        code = (
            "import sys; from pathlib import Path; from generator.etcd.maintenance_client import MaintenanceClient\n"
            "from generator.operations.baked_cluster import client_files\n"
            f"with MaintenanceClient(sys.argv[1], client_files(Path(sys.argv[2]))) as etcd:\n    print({expression})"
        )
        url = self.lab.plan.nodes[0].client_url
        return self.lab.run(sys.executable, "-c", code, url, str(self.store.folder)).stdout

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30 * PATIENCE
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.5)
