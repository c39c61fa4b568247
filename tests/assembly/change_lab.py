"""A lab in which `bake apply` changes a running cluster, while a writer records what its clients notice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self

from generator.config.load import load
from generator.operations.baked_cluster import open_cluster
from generator.plan import plan_cluster
from generator.store.folder import Store
from tests.assembly.nspawn_engine import Machines, NspawnEngine
from tests.assembly.nspawn_lab import PATIENCE
from tests.assembly.remote import served

MOST_NODES = 5
_STEP = re.compile(r"\s*[\d.]+ s  (\S+): (add|remove|update|replace|start)\b")
_numbers = count(1)


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
    """What a writer has seen. `gaps`: start and length of each long gap between two writes, in seconds."""

    done: int
    refused: int
    gaps: list[tuple[float, float]]
    missing: list[int]
    causes: dict[str, int]

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
    took: dict[str, float] = field(default_factory=dict)  # the seconds of the last run of each command

    @classmethod
    @contextmanager
    def booted(cls, root: Path, work: Path, *words: str) -> Iterator[Self]:
        """A sealed cluster with one node. `words`: options of `bake`."""
        store, spec = Store(work / "out", "etcd"), load(flags={"--nodes": (("nodes",), MOST_NODES)}).spec
        with (
            Machines(plan_cluster(spec), store.folder, root=root, work=work / "nodes") as lab,
            served(lab, work / "socket"),
        ):
            here = cls(lab, store, work / "socket")
            here._begin(*words)
            yield here

    def _begin(self, *words: str) -> None:
        assert self.bake("--nodes", "1", *words).code == 0
        engine = self.engine()
        engine.create("etcd1")
        took = self.lab.wait_for("settled", "etcd1", timeout=120)
        print(f"the first node: {took:.1f} s from power-on to settled")
        assert self.bake("seal").code == 0
        engine.remove_seed("etcd1")

    def engine(self) -> NspawnEngine:
        cluster = open_cluster(self.store)
        return NspawnEngine(
            plan=cluster.plan, seeds=self.store.folder, lab=self.lab, work=self.lab.work, report=print
        )  # fmt: skip

    def bake(self, *words: str) -> Ended:
        return self._end(self.start(*words))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start bake in the nodes' network, without a terminal."""
        driver = [sys.executable, "-m", "tests.assembly.apply_driver", str(self.socket), str(self.lab.work)]
        command = ["ip", "netns", "exec", self.lab.hub, *driver, *words, "--out", str(self.store.out)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    def _end(self, process: subprocess.Popen[str]) -> Ended:
        assert process.stderr
        assert process.stdout
        with process:
            lines = [(time.time(), line) for line in process.stderr]
            return Ended(code=process.wait(), stdout=process.stdout.read(), lines=lines)

    def change(self, *command: str) -> list[tuple[str, str]]:
        """Run a command of bake, which must succeed. Print what clients noticed. Return the steps as (action, node)."""
        begin = time.monotonic()
        with self.writing() as writer:
            done = self.bake(*command, "--yes", "-o", "json", "--wait", "600")
            seen = self.end(writer)
        assert done.code == 0, done.stderr
        self._print_effects(command, done, seen)
        self.took[command[0]] = time.monotonic() - begin
        return [(step["action"], step["node"]) for step in done.data["steps"]]

    def _print_effects(self, command: tuple[str, ...], done: Ended, seen: Written) -> None:
        steps = [(when, *found.groups()) for when, line in done.lines if (found := _STEP.match(line))]
        ends = [when for when, *_ in (*steps[1:], (time.time(),))][: len(steps)]
        print(f"\n{' '.join(command)}: {seen.done} writes, {seen.refused} refused, longest gap {seen.longest():.2f} s")
        for (when, node, action), end, step in zip(steps, ends, done.data["steps"], strict=True):
            assert (node, action) == (step["node"], step["action"])
            gap, level = seen.longest(when, end), f" ({step['level']})" if step["level"] else ""
            print(f"  {node} {action}{level}: {end - when:.1f} s; declared: {step['effect']}; measured: {gap:.2f} s")
        for cause, times in seen.causes.items():
            print(f"    {times} × {cause}")

    def kill(self, random: Random, seconds: float, *words: str, again: tuple[str, ...]) -> None:
        """Kill a run of bake at a random moment, up to `seconds` after its start. The command `again` must finish."""
        moment = random.uniform(0, seconds)
        more = ("--yes", "-o", "json", "--wait", "600")
        with self.writing() as writer:
            process = self.start(*words, *more)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
            first = self._end(process)
            second = self.bake(*again, *more)
            seen = self.end(writer)
        last = f"after: {first.lines[-1][1].strip()}" if first.lines else ""
        print(f"\n{' '.join(words)}: killed at {moment:.1f} s {last}; longest gap {seen.longest():.2f} s")
        assert second.code == 0, f"killed at {moment:.1f} s: {first.stderr}\n--- again\n{second.stderr}"

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
            try:
                yield process
            finally:
                process.kill()

    def end(self, writer: subprocess.Popen[str]) -> Written:
        """End a writer. No acknowledged key may be missing, neither of this writer nor of an earlier one."""
        seen = Written(**json.loads(writer.communicate("")[0]))
        assert seen.missing == []
        assert seen.done > 0
        self.kept[writer.prefix] = seen.done
        return seen

    def members(self) -> list[str]:
        """Return the names of the members, with a question mark for each learner."""
        return sorted(self.ask("*(f'{one.name}{\"?\" * one.is_learner}' for one in etcd.members())").split())

    def count(self, prefix: str) -> int:
        """Return the number of keys that begin with `prefix`."""
        return int(self.ask(f"etcd.get({prefix.encode()!r}, prefix=True, keys_only=True).count"))

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
