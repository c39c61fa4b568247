"""`NspawnEngine`: implements `generator.engine.Engine` with the nodes of an nspawn lab, so that tests can run `apply`.

A node's folder in the lab is its machine: `machine.json` is the definition, `upper` the disk, `medium` the drive.
`Machines` changes the nodes in the process of the tests, because the nodes are its children. The engine runs in the
process of `bake apply`, in which `remote.Remote` stands for `Machines`. So a killed `bake apply` ends between any two
calls, and the nodes live on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from generator.engine import MachineStatus, Owned, State
from generator.errors import BakeError
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan, domain_name
from generator.progress import Report
from tests.assembly.nspawn_lab import PATIENCE, NspawnLab, strict_units

SEED = ("network-config", "user-data", "meta-data", "bootstrap-permit", "snapshot.db", "snapshot.json")
REBOOT = 133  # nspawn's exit code if the container reboots (EXIT_FORCE_RESTART)
Definition = dict[str, str | int]
# Stands for udev, which starts apply-seed.service at boot if an ISO is in the drive (80-bake-seed.rules).
_DRIVE_UNIT = """[Unit]
Before=basic.target
After=local-fs.target
DefaultDependencies=no
ConditionPathExists=/run/bake/seed/meta-data
[Service]
Type=oneshot
ExecStart=/bin/systemctl start --no-block apply-seed.service
"""


class Machines(NspawnLab):
    """A lab whose nodes come and go. Each method is one change that a killed `bake apply` leaves done or not done."""

    def __enter__(self) -> Self:
        self._make_hub()
        return self

    def facts(self) -> dict[str, tuple[State, Definition, bool, bool]]:
        """Return each machine's state and definition, whether it has a disk, and whether a seed is in its drive.

        Start a node that reboots: nspawn ends instead.
        """
        for node, process in list(self.running.items()):
            if process.poll() is not None:
                self.running.pop(node)
                if process.returncode == REBOOT:
                    self._switch_on(node)
        return {node: self._facts(node) for node in sorted(path.parent.name for path in self.work.glob("*/medium"))}

    def _facts(self, node: str) -> tuple[State, Definition, bool, bool]:
        defined, state = self.definition(node), State.MISSING
        if defined is not None:
            state = State.RUNNING if node in self.running else State.STOPPED
        work = self.work / node
        return state, defined or {}, (work / "upper").is_dir(), (work / "medium/user-data").exists()

    def definition(self, node: str) -> Definition | None:
        path = self.work / node / "machine.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def define(self, node: NodePlan, definition: Definition) -> None:
        """Write the definition of a machine. A new machine gets a place in the network."""
        (self.work / node.name / "medium").mkdir(parents=True, exist_ok=True)
        if node.name not in self._connected:
            self._connect(node)
        self._write_definition(node.name, definition)

    def _write_definition(self, node: str, definition: Definition) -> None:
        path = self.work / node / "machine.json"
        path.with_suffix(".new").write_text(json.dumps(definition))
        path.with_suffix(".new").rename(path)

    def make_disk(self, node: NodePlan) -> None:
        shutil.rmtree(self.work / node.name / "medium")
        self._prepare(node)
        strict_units(self, node.name)
        units = self.work / node.name / "upper/etc/systemd/system"
        (units / "drive.service").write_text(_DRIVE_UNIT)
        (units / "basic.target.wants").mkdir()
        (units / "basic.target.wants/drive.service").symlink_to("../drive.service")

    def start(self, *nodes: str) -> None:
        """Switch nodes on, each with an empty console log, as libvirt does."""
        for node in nodes:
            self.console_path(node).unlink(missing_ok=True)
            self._switch_on(node)

    def _switch_on(self, node: str) -> None:
        self._show_drive(node)
        super().start(node)

    def _show_drive(self, node: str) -> None:
        """Put the seed in the drive where cloud-init finds it, because cloud-init reads no ISO in a container."""
        upper, drive = self.work / node / "upper", self.work / node / "medium"
        if (upper / "etc/cloud/cloud-init.disabled").exists():
            return
        seed = upper / "var/lib/cloud/seed"
        if seed.exists() and stat.S_ISCHR(seed.lstat().st_mode):  # overlayfs: the folder of the lower layer is deleted
            seed.unlink()
        shutil.rmtree(seed, ignore_errors=True)
        (seed / "nocloud").mkdir(parents=True)
        for path in drive.glob("*-data"):
            shutil.copy(path, seed / "nocloud")

    def shut_down(self, node: str, patience: float) -> bool:
        """Shut down a node. Cut its power after `patience` seconds. Return whether the node shut down by itself."""
        with suppress(IndexError, FileNotFoundError):  # its first process does not exist yet
            self.shell(node, "systemctl --no-block poweroff", check=False)
        with suppress(subprocess.TimeoutExpired):
            self.running[node].wait(patience)
        is_off = self.running[node].poll() is not None
        self.cut_power(node)
        return is_off

    def insert_all(self, node: str, digest: str) -> None:
        """Put the seed from the cluster's folder into the drive. A running node applies it, as udev does in a VM."""
        drive = self.work / node / "medium"
        for name in SEED:
            if (self.folder / node / name).exists():
                shutil.copy(self.folder / node / name, drive / f".{name}")
                (drive / f".{name}").rename(drive / name)
            else:
                (drive / name).unlink(missing_ok=True)
        self._write_definition(node, {**(self.definition(node) or {}), "seed": digest})
        if node in self.running:
            self._apply_drive(node)

    def _apply_drive(self, node: str) -> None:
        with suppress(IndexError, FileNotFoundError):  # the node has not begun to boot; drive.service follows
            self.shell(node, "systemctl --no-block start apply-seed.service", check=False)

    def take_out(self, node: str) -> None:
        for name in SEED:
            (self.work / node / "medium" / name).unlink(missing_ok=True)

    def delete(self, node: str) -> None:
        """Delete a machine, its disk, its drive, its console log and its place in the network."""
        if node in self.running:
            self.cut_power(node)
        if node in self._connected:
            self._disconnect(node)
        shutil.rmtree(self.work / node)

    def exchange_disk(self, node: NodePlan) -> None:
        """Give a node a new disk, with the folder of etcd's data from its old disk."""
        work, data = self.work / node.name, self.work / node.name / "data"
        if not data.exists():  # otherwise an interrupted exchange has kept the data
            (work / "upper/var/lib/etcd").rename(data)
        for name in ("upper", "overlay", "mnt"):
            shutil.rmtree(work / name, ignore_errors=True)
        self.make_disk(node)
        (work / "upper/var/lib").mkdir(parents=True, exist_ok=True)
        data.rename(work / "upper/var/lib/etcd")

    def cut_if_running(self, node: str) -> None:
        if node in self.running:
            self.cut_power(node)

    def lose_disk(self, node: str) -> None:
        self.cut_if_running(node)
        for name in ("upper", "overlay", "mnt"):
            shutil.rmtree(self.work / node / name)


@dataclass
class ConsoleFile:
    """A node's console log. An absent log is empty, and a new log begins again."""

    path: Path
    position: int = 0

    def read(self) -> bytes:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        begin, self.position = (self.position if self.position <= len(data) else 0), len(data)
        return data[begin:]


@dataclass(kw_only=True)
class NspawnEngine:
    """Implements `generator.engine.Engine`. `lab`: a `Machines`, or a `Remote` of it. `work`: the lab's folder."""

    plan: ClusterPlan
    seeds: Path
    lab: Machines
    work: Path
    report: Report
    patience: float = 30.0 * PATIENCE

    def machines(self) -> Mapping[str, MachineStatus]:
        facts = self.lab.facts()
        names = [*self._nodes, *(name for name in facts if name not in self._nodes)]
        return {name: self._status(name, *facts.get(name, (State.MISSING, {}, False, False))) for name in names}

    def _status(self, name: str, state: State, definition: Definition, disk: bool, has_seed: bool) -> MachineStatus:
        node = self._nodes.get(name)
        wanted = self._definition(node) if node and definition else {}
        return MachineStatus(
            node=name, state=state, planned=node is not None, disk_size=int(disk),
            data_size=self.plan.spec.vm.data_disk if disk else 0,
            outdated=tuple(key for key in ("memory", "cpus", "mac") if wanted and definition[key] != wanted[key]),
            rebuild=("vm.disk",) if wanted and definition["disk"] != wanted["disk"] else (),
            seed=str(definition.get("seed", "")), has_seed=has_seed,
        )  # fmt: skip

    def create(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in self._nodes if name in names and self._create(self._planned(name)))

    def _create(self, node: NodePlan) -> bool:
        seen = self.machines()[node.name]
        if seen.state is State.RUNNING:
            return False
        kept = {"disk": (self.lab.definition(node.name) or {})["disk"]} if seen.has_disk else {}
        self.lab.define(node, {**self._definition(node), **kept})
        if not seen.has_disk:
            self.lab.make_disk(node)
        self.lab.insert_all(node.name, self._digest(node.name))
        self.lab.start(node.name)
        return True

    def restart(self, name: str) -> None:
        node, seen = self._existing(name)
        if not seen.has_disk:
            raise BakeError(f"the disk of {name} is missing")
        disk = (self.lab.definition(name) or {})["disk"]
        self.lab.define(node, {**self._definition(node), "seed": seen.seed, "disk": disk})
        if seen.state is State.RUNNING and not self.lab.shut_down(name, self.patience):
            self.report(f"{name}: did not shut down; power off")
        if seen.seed != self._digest(name):
            self.lab.insert_all(name, self._digest(name))
        self.lab.start(name)

    def shut_down(self, *names: str) -> tuple[str, ...]:
        running = [name for name in names if self.machines()[name].state is State.RUNNING]
        for name in running:
            if not self.lab.shut_down(name, self.patience):
                self.report(f"{name}: did not shut down; power off")
        return tuple(running)

    def remove(self, name: str) -> tuple[str, ...]:
        if name not in self.lab.facts():
            return ()
        self.lab.delete(name)
        return (f"the machine of {name}",)

    def replace(self, name: str) -> None:
        self._planned(name)
        self.remove(name)
        self.create(name)

    def reimage(self, name: str) -> None:
        node, seen = self._existing(name)
        if not seen.has_data_disk:
            raise BakeError(f"{name} has no data disk")
        if seen.state is State.RUNNING and not self.lab.shut_down(name, self.patience):
            self.report(f"{name}: did not shut down; power off")
        self.lab.exchange_disk(node)
        self.lab.define(node, self._definition(node))
        self.lab.insert_all(name, self._digest(name))
        self.lab.start(name)

    def remove_unused_images(self) -> tuple[str, ...]:
        return ()

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        _, seen = self._existing(name)
        digest = self._digest(name)
        if seen.has_seed and seen.seed == digest and not (again and seen.state is State.RUNNING):
            return False
        self.lab.insert_all(name, digest)
        return True

    def replace_seed(self, name: str) -> bool | None:
        node, seen = self._planned(name), self.machines()[name]
        if not seen.exists:
            return None
        if seen.has_seed:
            return self.insert_seed(name)
        definition = {**(self.lab.definition(name) or {}), "seed": self._digest(name)}
        self.lab.define(node, definition)
        return definition["seed"] != seen.seed

    def remove_seed(self, name: str) -> bool:
        _, seen = self._existing(name)
        self.lab.take_out(name)
        return seen.has_seed

    def console_logs(self, *names: str) -> Mapping[str, ConsoleFile]:
        return {name: ConsoleFile(self.work / name / "console.log") for name in names or self.machines()}

    def journals(self, *names: str) -> Mapping[str, ConsoleFile]:
        """A container has no virtio port, so the copies are empty."""
        return {name: ConsoleFile(self.work / name / "journal.log") for name in names or self.machines()}

    def attach(self, name: str) -> None:
        raise BakeError(f"the lab has no serial console of {name}")

    @property
    def _nodes(self) -> dict[str, NodePlan]:
        return {node.name: node for node in self.plan.nodes}

    def _planned(self, name: str) -> NodePlan:
        if name not in self._nodes:
            raise BakeError(f"{name}: not a node of the cluster {self.plan.name}")
        return self._nodes[name]

    def _existing(self, name: str) -> tuple[NodePlan, MachineStatus]:
        node, seen = self._planned(name), self.machines()[name]
        if seen.state is State.MISSING:
            raise BakeError(f"{name} has no machine")
        return node, seen

    def _definition(self, node: NodePlan) -> Definition:
        vm = self.plan.spec.vm
        return {"memory": vm.memory, "cpus": vm.cpus, "mac": node.mac, "disk": vm.disk}

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self.seeds / name / SEED_ISO).read_bytes()).hexdigest()


@dataclass(frozen=True)
class NspawnHosts:
    """Implements `generator.engine.Hosts` with the machines of a lab, which has one cluster."""

    lab: Machines

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        return tuple(
            Owned(kind="VM", name=domain_name(cluster, node), cluster_id=cluster_id) for node in self.lab.facts()
        )  # fmt: skip

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        owned = self.owned(cluster, cluster_id=cluster_id)
        for node in self.lab.facts():
            self.lab.delete(node)
        return tuple(each.name for each in owned)

    def used_images(self) -> set[str]:
        raise BakeError("the lab's machines have no images")
