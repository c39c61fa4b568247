"""A cluster on loopback with real etcd, the real guest hooks and real certificates. A small class replaces systemd.

Each node runs the commands of its units: first etcd-join, then etcd with the settings that etcd-join has written, and
etcd-promote when etcd is ready. If a command fails, all commands start again.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from secrets import token_hex
from typing import Any

from generator.config.auth import AuthSpec
from generator.config.pki import PkiSpec
from generator.config.spec import ClusterSpec, EtcdSpec, JoinMode, NetworkSpec
from generator.pki import Credential, Role, create_authority, issue_nodes
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.seed.guest_files import Trust, guest_files

GUEST = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake"
ETCD_UNIT = GUEST.parents[2] / "etc/systemd/system/etcd.service.j2"
PLACES = ("/etc/etcd/", "/var/lib/etcd", "/var/lib/bake", "/run/etcd", "/run/bake")
Process = subprocess.Popen[Any]
RESTART_DELAY = 0.2  # in place of the unit's RestartSec, which is too long for a test
PATIENCE = 6  # a busy machine may need this many times longer than a quiet machine
ETCDCTL_LIMITS = ("--dial-timeout=10s", "--command-timeout=20s")  # at least four times etcdctl's defaults


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The paths of etcd's programs, the interpreter of the hooks, and whether auth is on by default."""

    bin_dir: Path
    interpreter: tuple[str, ...] = (sys.executable, "-EsS")
    path: str = os.environ["PATH"]
    auth: bool = False


class Node:
    """A node and its units. `start` starts the node, and `kill` stops it.

    `promotes`: whether etcd-promote runs. `right`: the content of the node's file bootstrap-permit.
    """

    def __init__(self, plan: NodePlan, files: dict[str, bytes], root: Path, tools: Tools, right: str) -> None:
        self.plan, self.root, self.tools, self.right = plan, root, tools, right
        self.records: list[str] = []
        self.on = False
        self.promotes = True
        self.sealed = False
        self.snapshot: dict[str, bytes] = {}
        self._processes: list[Process] = []
        self._promoter: Process | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._write(files)

    @property
    def data_dir(self) -> Path:
        return self.root / "var/lib/etcd/etcd"

    def _write(self, files: dict[str, bytes]) -> None:
        self.write_files(files)
        for folder in ("run/etcd", "var/lib/etcd", "var/lib/bake", "run/bake"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self._copy_permit()

    def write_files(self, files: dict[str, bytes]) -> None:
        """Write files of the seed, with the paths of this node's folder in place of a real node's paths."""
        moved = {place: f"{self.root}{place}" for place in PLACES}
        moved["/usr/bin/etcdctl"] = str(self.tools.bin_dir / "etcdctl")
        moved["systemd/journal"] = "stderr"  # the node has no journal
        for path, data in files.items():
            target = self.root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = data.decode()
            for old, new in moved.items():
                text = text.replace(old, new)
            target.write_text(text)

    def _copy_permit(self) -> None:
        """Copy the bootstrap permit and the snapshot from the ISO, as bootcmd does at each boot."""
        if self.plan.bootstrap and not self.sealed:
            self.permit.write_text(f"{self.right}\n")
            for name, data in self.snapshot.items():
                (self.root / "var/lib/bake" / name).write_bytes(data)

    def insert_snapshot(self, files: dict[str, bytes]) -> None:
        """Put a snapshot on the ISO, next to the permit."""
        self.snapshot = files
        self._copy_permit()

    @property
    def permit(self) -> Path:
        """The path of the bootstrap permit, which the boot copied from the seed's ISO."""
        return self.root / "run/bake/bootstrap-permit"

    def seal(self) -> None:
        """Remove the permit from the ISO, so the node has no permit after its next boot."""
        self.sealed = True

    @contextmanager
    def waiting_empty(self) -> Iterator[None]:
        """Run only the server that reports an empty disk, as on a node that waits for the other nodes."""
        code = "from node import read_settings; from peers import EmptyDiskServer; import os, sys; "
        code += "s = read_settings(dict(os.environ)); EmptyDiskServer(s.me, s.permit).run()"
        env = self.environment() | {"PYTHONPATH": str(GUEST)}
        process = subprocess.Popen([sys.executable, "-c", code], env=env)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def environment(self, *names: str) -> dict[str, str]:
        """The environment from the unit's EnvironmentFiles. Later files override earlier files."""
        found = {"PATH": self.tools.path}
        for name in names or ("etc/etcd/etcd.conf", "etc/etcd/bake.env"):
            path = self.root / name
            lines = path.read_text().splitlines() if path.exists() else []
            settings = ("".join(shlex.split(line)) for line in lines if line and line[0] != "#")
            found |= dict(setting.split("=", 1) for setting in settings)
        return found

    def hook(self, name: str) -> list[str]:
        return [*self.tools.interpreter, str(GUEST / name)]

    def start(self) -> None:
        self.on = True
        self._thread = threading.Thread(target=self._unit, daemon=True)
        self._thread.start()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Kill all processes of the node at the same time, like a power cut."""
        with self._lock:
            self.on = False
            for process in self._processes:
                with suppress(ProcessLookupError):  # the node's thread may have noticed the end of the process before
                    if process.poll() is None:
                        os.killpg(process.pid, signum)
        if self._thread:
            self._thread.join(10 * PATIENCE)
        for process in self._processes:
            process.wait(10 * PATIENCE)
        self._processes.clear()

    def cut_power(self) -> None:
        """Kill the node's processes, and delete its files in /run."""
        self.kill()
        for name in ("etcd", "bake"):
            shutil.rmtree(self.root / "run" / name)
            (self.root / "run" / name).mkdir()
        self._copy_permit()

    def wipe(self) -> None:
        """Replace the node's disk with an empty disk."""
        self.cut_power()
        shutil.rmtree(self.data_dir)
        self.records.clear()

    def join_only(self) -> None:
        """Run only etcd-join, without etcd, until it ends."""
        subprocess.run(
            self.hook("etcd-join"), env=self.environment(), check=True, timeout=30 * PATIENCE, capture_output=True
        )

    def running(self) -> bool:
        """Whether the node's unit is running. The unit does not restart after an exit with 0."""
        return self._thread is not None and self._thread.is_alive()

    def says(self, text: str) -> bool:
        return text in "\n".join(self.records)

    def _unit(self) -> None:
        while self.on:
            if self._start_once() == 0:
                return  # Restart=on-failure
            time.sleep(RESTART_DELAY)

    def _start_once(self) -> int:
        if code := self._run(self.hook("etcd-join"), self.environment()):
            return code
        notify = self.root / "run/notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            env = {**self.environment(), "NOTIFY_SOCKET": str(notify)}
            etcd = self._spawn(["sh", str(GUEST / "etcd-start"), str(self.tools.bin_dir / "etcd")], env, log=True)
            if etcd is None:
                return 0
            ready.settimeout(0.1)
            while etcd.poll() is None and not self._is_ready(ready):
                pass
        if etcd.poll() is None:
            self.permit.unlink(missing_ok=True)  # ExecStartPost
            for name in self.snapshot:
                (self.root / "var/lib/bake" / name).unlink(missing_ok=True)
        if self.promotes and etcd.poll() is None:
            threading.Thread(target=self._promote, args=[etcd], daemon=True).start()
        code = etcd.wait()
        if self._promoter and self._promoter.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._promoter.pid, signal.SIGTERM)
        return code

    def _promote(self, etcd: Process) -> None:
        """Run etcd-promote as its service does: start it again after a failure, and end it with etcd."""
        command, env = self.hook("etcd-promote"), self.environment("etc/etcd/bake.env")
        while etcd.poll() is None and (process := self._spawn(command, env)):
            self._promoter = process
            if self._follow(process) == 0 and self._is_secured(etcd, env):
                return
            time.sleep(RESTART_DELAY)

    def _is_secured(self, etcd: Process, env: dict[str, str]) -> bool:
        """Run the service's second command, etcd-auth, if the service has this command."""
        if "BAKE_AUTH" not in env:
            return True
        process = self._spawn(self.hook("etcd-auth"), env) if etcd.poll() is None else None
        self._promoter = process or self._promoter
        return process is not None and self._follow(process) == 0

    def _is_ready(self, ready: socket.socket) -> bool:
        try:
            return b"READY=1" in ready.recv(4096)
        except TimeoutError:
            return False

    def _run(self, command: list[str], env: dict[str, str]) -> int:
        """Run a hook to its end. The hook's stdout goes to the console."""
        process = self._spawn(command, env)
        return 0 if process is None else self._follow(process)

    def _follow(self, process: Process) -> int:
        assert process.stdout is not None
        for line in process.stdout:
            self.records.append(line.rstrip("\n"))
        process.stdout.close()
        return process.wait()

    def _spawn(self, command: list[str], env: dict[str, str], *, log: bool = False) -> Process | None:
        with self._lock, (self.root / "log").open("a") as stderr:
            if not self.on:
                return None
            out = stderr if log else subprocess.PIPE
            self._processes.append(
                subprocess.Popen(command, env=env, stdout=out, stderr=stderr, text=True, process_group=0)
            )
            return self._processes[-1]

    def votes(self) -> bool:
        return self.phases()[-1:] == ["voting"]

    def phases(self) -> list[str]:
        return re.findall(r"phase=(\S+)", "\n".join(self.records))

    def __repr__(self) -> str:
        return f"{self.plan.name}: {self.records[-3:]}"


@dataclass
class Miniature:
    """A cluster of nodes, and an operator with a client certificate."""

    nodes: list[Node]
    root: Path
    tools: Tools
    plan: ClusterPlan
    authority: Credential
    started: float = field(default=0.0)

    def start(self, order: Sequence[Node] | None = None) -> None:
        self.started = time.monotonic()
        for node in order if order is not None else random.sample(self.nodes, len(self.nodes)):
            node.start()

    def start_first(self) -> None:
        """Start a cluster of the first node only; the other nodes stay stopped."""
        with ExitStack() as waiting:
            for node in self.nodes[1:]:
                waiting.enter_context(node.waiting_empty())
            self.start([self.nodes[0]])
            self.wait(self.nodes[0].votes, 20, "the first node votes")

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def etcdctl(self, node: Node, *words: str, check: bool = True) -> str:
        """Run etcdctl and return its standard output. If it fails and `check` is false, also return its errors.

        If a `put` must succeed, it is tried several times, because etcd refuses writes during an election.
        """
        env = node.environment("etc/etcd/bake.env")  # below, `words` may override the limits
        command = [str(self.tools.bin_dir / "etcdctl"), *ETCDCTL_LIMITS, "--endpoints", node.plan.client_url, *words]
        for pause in (1, 1, 1, 0) if check and words[0] == "put" else (0,):
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30 * PATIENCE)
            if done.returncode == 0:
                return done.stdout  # the errors are warnings about calls that etcd's client has repeated
            time.sleep(pause)
        assert not check, done.stderr
        return done.stdout + done.stderr

    def members(self, node: Node) -> list[dict[str, Any]]:
        """Return the member list of this node as soon as the node answers."""
        found: list[dict[str, Any]] = []

        def answers() -> bool:
            found[:] = self.members_now(node)
            return bool(found)

        self.wait(answers, 20, f"{node.plan.name} lists the members")
        return found

    def members_now(self, node: Node) -> list[dict[str, Any]]:
        """Return the node's member list; empty if the node does not answer within two seconds."""
        answer = self.etcdctl(node, "--command-timeout=2s", "member", "list", "-w", "json", check=False)
        found: list[dict[str, Any]] = [] if "Error:" in answer else json.loads(answer)["members"]
        return found

    def voters(self, node: Node) -> set[str]:
        return {m.get("name", "") for m in self.members(node) if not m.get("isLearner")}

    def cluster_ids(self) -> set[int]:
        answers = (self.etcdctl(node, "endpoint", "status", "-w", "json") for node in self.nodes)
        return {json.loads(answer)[0]["Status"]["header"]["cluster_id"] for answer in answers}

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> float:
        """Wait for the condition and return the seconds since the start. `seconds` is the limit on a quiet machine."""
        deadline = time.monotonic() + seconds * PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds * PATIENCE} s: {what}\n{self.nodes}"
            time.sleep(0.05)
        return time.monotonic() - self.started

    def wait_all_voting(self, seconds: float) -> float:
        """Wait until each node has reported that it is a voting member, then compare with the member list."""
        took = self.wait(lambda: all(node.votes() for node in self.nodes), seconds, "all vote")
        names = {node.plan.name for node in self.nodes}
        assert all(self.voters(node) == names for node in self.nodes)
        assert len(self.members(self.nodes[0])) == len(self.nodes)
        return took


def bake_miniature(
    root: Path,
    subnet: str,
    count: int,
    tools: Tools,
    *,
    join: JoinMode = JoinMode.LEARNER,
    pki: PkiSpec | None = None,
    etcd: EtcdSpec | None = None,
    auth: AuthSpec | None = None,
    authority: Credential | None = None,
) -> Miniature:
    """Return the nodes of a plan. Each node has the files that bake renders, in a separate folder."""
    network = NetworkSpec(subnet=ip_network(subnet), first_ip=IPv4Address(ip_network(subnet)[11]))
    spec = ClusterSpec(
        nodes=count, network=network, join=join, etcd=etcd or EtcdSpec(), pki=pki or PkiSpec(),
        auth=auth or AuthSpec(enabled=tools.auth),
    )  # fmt: skip
    plan, now = plan_cluster(spec), datetime.now(tz=UTC)
    authority = authority or create_authority(plan, now=now)
    peers = create_authority(plan, Role.PEER_CA, now=now) if plan.spec.pki.peer_ca.separate else None
    trust = Trust(
        identity=token_hex(16), permit=token_hex(32), ca_pem=authority.cert_pem,
        peer_ca_pem=peers.cert_pem if peers else None,
    )  # fmt: skip
    nodes = []
    for node, credentials in zip(plan.nodes, issue_nodes(plan, authority, peer_authority=peers, now=now), strict=True):
        files = {str(file.path): file.data for file in guest_files(plan, node, trust, credentials)}
        wanted = {path: data for path, data in files.items() if path.startswith("/etc/etcd/")}
        nodes.append(Node(node, wanted, root / node.name, tools, trust.permit))
    return Miniature(nodes, root, tools, plan, authority)
