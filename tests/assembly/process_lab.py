"""Machines that are processes: real etcd and the real join hooks, in the network namespaces of an nspawn lab.

A node has no systemd, no cloud-init and no firewall, so it starts in a second instead of in ten. A small class replaces
what reads its seed. `nspawn_engine.Machines` are the same machines with everything real.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import yaml

from generator.engine import State
from generator.operations.running.applied_seeds import WAITS
from generator.plan import ClusterPlan, NodePlan
from generator.seed.guest.usr.libexec.bake.seed_change import TABLE, Seed, compare, read_seed
from tests.assembly import processes
from tests.assembly.miniature import Node, Process, Tools
from tests.assembly.nspawn_engine import Definition, Machines
from tests.assembly.process_clock import Clocks


class Records(list[str]):
    """What a node prints, kept in its console log. After each start of etcd, the node prints the id of its seed."""

    def __init__(self, node: str, console: Path) -> None:
        super().__init__()
        self.node, self.console, self.seed = node, console, ""

    def append(self, line: str) -> None:
        super().append(line)
        with self.console.open("a") as file:
            file.write(f"{line}\n")
        if "phase=voting" in line:
            self.settle()

    def settle(self) -> None:
        if self.seed:
            self.append(f'bake: node={self.node} phase=settled seed={self.seed} detail="the node runs its seed"')


class PlacedNode(Node):
    """A node of the miniature in a network namespace. `disk`: the folder that an exchange of the disk empties."""

    def __init__(self, plan: NodePlan, namespace: str, disk: Path, tools: Tools, console: Path) -> None:
        super().__init__(plan, {}, disk, tools, "")
        self.namespace = namespace
        self.records = Records(plan.name, console)

    def _spawn(self, command: list[str], env: dict[str, str], *, log: bool = False) -> Process | None:
        return super()._spawn(["nsenter", f"--net=/run/netns/{self.namespace}", *command], env, log=log)


class ProcessMachines(Machines):
    """The machines of a plan. A node's folder has `machine.json`, `upper` (the disk) and `medium` (the drive)."""

    def __init__(self, plan: ClusterPlan, folder: Path, *, tools: Tools, work: Path) -> None:
        super().__init__(plan, folder, root=work, work=work)
        self.tools = tools
        self.nodes: dict[str, PlacedNode] = {}
        self._mounted: list[Path] = []
        self._clocks: dict[str, int] = {}  # seconds that a node's clock differs from the machine's clock
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._keep_clocks, daemon=True).start()
        return super().__enter__()

    def facts(self) -> dict[str, tuple[State, Definition, bool, bool]]:
        return {node: self._facts(node) for node in sorted(path.parent.name for path in self.work.glob("*/medium"))}

    def make_disk(self, node: NodePlan) -> None:
        (self.work / node.name / "upper").mkdir()

    def _switch_on(self, name: str) -> None:
        """Boot: read the seed in the drive, copy the permit, start the units."""
        node = self._node(name)
        seed = self._in_drive(name)
        if seed:
            self._apply(node, *seed)
        permit = self.work / name / "medium/bootstrap-permit"
        node.sealed, node.right = not permit.exists(), permit.read_text().strip() if permit.exists() else ""
        for folder in ("run/etcd", "run/bake"):
            shutil.rmtree(node.root / folder, ignore_errors=True)
            (node.root / folder).mkdir(parents=True)
        node._copy_permit()
        node.plan = next(one for one in self.plan.nodes if one.name == name)
        self.console_path(name).touch()
        self.running[name] = None  # type: ignore[assignment]  the node has several processes
        node.start()

    def _node(self, name: str) -> PlacedNode:
        """Return the node on the machine's disk. A new disk is a new node."""
        if name not in self.nodes:
            plan = next(one for one in self.plan.nodes if one.name == name)
            disk = self.work / name / "upper"
            self.nodes[name] = PlacedNode(plan, self._netns(name), disk, self.tools, self.console_path(name))
            stored = disk / "seed-id"
            self.nodes[name].records.seed = stored.read_text() if stored.exists() else ""
        return self.nodes[name]

    def _in_drive(self, name: str) -> tuple[str, dict[str, Any]] | None:
        drive = self.work / name / "medium"
        if not (drive / "user-data").exists():
            return None
        meta, user = (yaml.load((drive / name).read_bytes(), yaml.CSafeLoader) for name in ("meta-data", "user-data"))
        return str(meta["instance-id"]), user

    def _apply(self, node: PlacedNode, seed_id: str, config: dict[str, Any]) -> None:
        seed = read_seed(config)
        node.write_files({path: file.content for path, file in seed.files.items() if path.startswith("/etc/etcd/")})
        (node.root / "seed.json").write_text(json.dumps(config))
        (node.root / "seed-id").write_text(seed_id)
        node.records.seed = seed_id

    def _apply_drive(self, name: str) -> None:
        """What apply-seed does on a real node."""
        node, found = self.nodes[name], self._in_drive(name)
        if not found or found[0] == node.records.seed:
            return
        old = read_seed(json.loads((node.root / "seed.json").read_text()))
        level = compare(_without_hooks(old), _without_hooks(read_seed(found[1]))).level
        if level == "reboot":
            node.records.append(f'bake: node={node.plan.name} phase=waiting detail="{WAITS}"')
            return
        self._apply(node, *found)
        node.records.settle()
        if level == "restart":
            node.kill(signal.SIGTERM)
            node.start()

    def shut_down(self, node: str, patience: float) -> bool:
        self.nodes[node].kill(signal.SIGTERM)
        self.running.pop(node, None)
        return True

    def cut_power(self, node: str) -> None:
        self.running.pop(node, None)
        self.nodes[node].kill()

    def delete(self, node: str) -> None:
        self.cut_if_running(node)
        self.nodes.pop(node, None)
        if node in self._connected:
            self._disconnect(node)
        shutil.rmtree(self.work / node)

    def exchange_disk(self, node: NodePlan) -> None:
        """Give a node a new disk, with the folder of etcd's data from its old disk."""
        work, data = self.work / node.name, self.work / node.name / "data"
        self.nodes.pop(node.name, None)
        if not data.exists():  # otherwise an interrupted exchange has kept the data
            (work / "upper/var/lib/etcd").rename(data)
        shutil.rmtree(work / "upper", ignore_errors=True)
        (work / "upper/var/lib").mkdir(parents=True)
        data.rename(work / "upper/var/lib/etcd")

    def lose_disk(self, node: str) -> None:
        self.cut_if_running(node)
        self.nodes.pop(node, None)
        shutil.rmtree(self.work / node / "upper")

    # --- faults ---------------------------------------------------------------------------------------------------

    def disturb_link(self, node: str, kind: str) -> None:
        """Disturb a node's traffic with other members: `cut` (no packet), `lossy` (every fifth is lost) or `slow`."""
        if node not in self._connected:
            return
        namespace = ("ip", "netns", "exec", self._netns(node))
        if kind == "slow":
            words = ("root", "tbf", "rate", "1mbit", "burst", "4kb", "latency", "200ms")
            subprocess.run([*namespace, "tc", "qdisc", "replace", "dev", "host0", *words], check=True)
            return
        odds = "numgen random mod 100 < 20 " if kind == "lossy" else ""
        rules = "; ".join(f"tcp {end} 2380 {odds}drop" for end in ("sport", "dport"))
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; {rules}; }}\n" for hook in ("input", "output")
        )
        subprocess.run([*namespace, "nft", "-f", "-"], input=f"table inet fault {{\n{chains}}}", text=True, check=True)

    def calm_links(self) -> None:
        """Undo `disturb_link` on every node."""
        for node in self._connected:
            namespace = ("ip", "netns", "exec", self._netns(node))
            subprocess.run([*namespace, "nft", "flush", "ruleset"], check=True)
            subprocess.run([*namespace, "tc", "qdisc", "del", "dev", "host0", "root"], check=False, capture_output=True)

    def shrink_disk(self, node: str, size: int) -> None:
        """Move the node's data to a disk of `size` MiB. The node starts again."""
        self.cut_power(node)
        data = self.work / node / "upper/var/lib/etcd"
        data.rename(data.with_name("moved"))
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "disk", data], check=True)
        self._mounted.append(data)
        for path in data.with_name("moved").iterdir():
            shutil.move(path, data)
        self._switch_on(node)

    def fill_disk(self, node: str) -> None:
        """Write a file to the node's small disk until the disk is full."""
        filler = self.work / node / "upper/var/lib/etcd/filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))

    def free_disk(self, node: str) -> None:
        (self.work / node / "upper/var/lib/etcd/filler").unlink(missing_ok=True)

    def set_clock(self, node: str, seconds: int) -> None:
        """Let a node's clock jump, so that it differs from the machine's clock by `seconds`."""
        self._clocks[node] = seconds

    def _keep_clocks(self) -> None:
        """Set the clock of each process of a node, also of a process that starts later."""
        clocks = Clocks()
        while not self._over.wait(0.05):
            for node, seconds in list(self._clocks.items()):
                for process in processes.below(self.work / node):
                    clocks.shift(process.pid, seconds)

    def log(self, node: str) -> str:
        """Return what etcd has logged on the node's current disk."""
        return (self.work / node / "upper/log").read_text(errors="replace")

    def __exit__(self, *words: object) -> None:
        self._over.set()
        for node in list(self.running):
            self.cut_power(node)
        for folder in self._mounted:
            subprocess.run(["umount", "--lazy", folder], check=False)
        super().__exit__(*words)


def _without_hooks(seed: Seed) -> Seed:
    """Leave out the scripts, because a node of this lab runs the scripts of the working tree."""
    files = {path: file for path, file in seed.files.items() if path == TABLE or path.startswith("/etc/etcd/")}
    return seed._replace(files=files)
