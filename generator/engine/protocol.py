"""`Engine`: the interface through which all operations reach the machines of a cluster's nodes.

libvirt implements the interface with VMs (`generator.vm.engine`). This module imports nothing with effects, so that
`generator.change` may import the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """The state of a node's machine.

    `foreign`: the machine with the node's name does not belong to the cluster. `unknown`: the machine's host does not
    answer.
    """

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CRASHED = "crashed"
    MISSING = "missing"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStatus:
    """The observed facts about a node's machine.

    `planned`: whether the plan has the node. `disk_size`: bytes, or 0 if the disk is missing; a removed machine may
    leave its disk. `data_size`: bytes of the disk for etcd's data, or 0 without such a disk. `lost_data`: whether the
    machine has had such a disk, which is missing now. `outdated`: the properties in which the machine differs from the
    plan, of `memory`, `cpus` and `mac`; they change only at a restart by the engine. `rebuild`: the fields of the
    cluster file whose values the machine's disks were not made from. `image`: digest of the image from which the disk
    was made. `built`: when bake built the image (RFC 3339), or "" if unknown. `seed`: digest of the ISO that was
    inserted last. `has_seed`: whether an ISO is in the drive, now or at the next start. `accel`: `kvm` or `tcg`, or ""
    if unknown. `host`: the name of the machine's host in the cluster file, or "". `copies`: other hosts that have a
    machine of the node, too. `silent_hosts`: hosts that do not answer, which can have a machine of the node.
    """

    node: str
    state: State
    planned: bool = True
    disk_size: int = 0
    data_size: int = 0
    lost_data: bool = False
    outdated: tuple[str, ...] = ()
    rebuild: tuple[str, ...] = ()
    image: str = ""
    built: str = ""
    seed: str = ""
    has_seed: bool = False
    accel: str = ""
    host: str = ""
    copies: tuple[str, ...] = ()
    silent_hosts: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether the cluster has the machine."""
        return self.state not in (State.MISSING, State.FOREIGN, State.UNKNOWN)

    @property
    def is_left(self) -> bool:
        """Whether a machine with the node's name exists, or a disk of the node."""
        return self.state is not State.MISSING or self.has_disk or self.has_data_disk

    @property
    def has_disk(self) -> bool:
        return self.disk_size > 0

    @property
    def has_data_disk(self) -> bool:
        return self.data_size > 0


class Console(Protocol):
    """A node's console log, or the copy of its journal."""

    def read(self) -> bytes:
        """Return the part of the log that is new since the previous call. The first call returns the whole log."""
        ...


class Engine(Protocol):
    """The machines of one cluster. An engine knows the cluster's plan, its id and the folder with the nodes' seeds.

    Every method raises BakeError if it would change a machine, disk or network of another cluster. Every method may be
    called again after an interruption, and completes the work. A node that is not named does not change.
    """

    def machines(self) -> Mapping[str, MachineStatus]:
        """Return the facts about every planned node, and about other nodes of which a machine or a disk is left.

        The planned nodes come first, in the plan's order.
        """
        ...

    def check(self, *names: str) -> None:
        """Raise BakeError if `create` would refuse the planned nodes. Change nothing."""
        ...

    def create(self, *names: str) -> tuple[str, ...]:
        """Create missing machines and start stopped machines of planned nodes, with their seeds in their drives.

        A stopped machine whose disk is missing gets a new disk, and keeps its data disk. A running machine does not
        change. Raise BakeError before the first change if a node cannot start, for example because another host has its
        address. Raise BakeError if the disk of a missing machine has data. Return the names of the started nodes.
        """
        ...

    def restart(self, name: str) -> None:
        """Shut down a planned node, apply the plan to its machine, and start it with its seed in the drive.

        Power off a machine that does not shut down in time, and report it. A stopped machine is only started. The drive
        stays empty if the node has applied the seed already. Raise BakeError if the machine or its disk is missing.
        """
        ...

    def shut_down(self, *names: str) -> tuple[str, ...]:
        """Shut down planned nodes at the same time. Return the names of the nodes that were running.

        Power off a machine that does not shut down in time, and report it.
        """
        ...

    def remove(self, name: str) -> tuple[str, ...]:
        """Power off a node, and remove its machine, disk, seeds and console log. The plan need not have the node.

        Return the names of the removed objects; nothing if nothing is left of the node.
        """
        ...

    def remove_copies(self, name: str) -> tuple[str, ...]:
        """Remove a planned node's machines and disks from all hosts but the planned host. Return what was removed."""
        ...

    def replace(self, name: str) -> None:
        """Remove a planned node's machine and its disks, then create them anew from the image."""
        ...

    def reimage(self, name: str) -> None:
        """Exchange a planned node's root disk for a new disk from the image, and start the node with its seed.

        The disk with etcd's data stays. Shut the machine down as `restart` does. Raise BakeError if the machine or its
        data disk is missing. After an interruption, `create` completes the exchange, too.
        """
        ...

    def remove_unused_images(self) -> tuple[str, ...]:
        """Remove the images that no machine of the cluster uses from the machines' host. Return their names."""
        ...

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        """Put a planned node's seed into the drive of its machine, running or stopped.

        `again`: if the seed is already in the drive of a running machine, eject it first, because a node reads an ISO
        only when the ISO is inserted. Return whether anything changed. Raise BakeError if the machine is missing.
        """
        ...

    def replace_seed(self, name: str) -> bool | None:
        """Put a planned node's seed into the drive if an ISO is in the drive. An empty drive stays empty.

        Return whether anything changed, or None if the cluster has no machine of the node.
        """
        ...

    def remove_seed(self, name: str) -> bool:
        """Empty the drive of a planned node's machine, and delete the ISO. Return whether anything changed.

        A newer seed that a running machine gets only at its next start stays. Raise BakeError if the machine is
        missing.
        """
        ...

    def console_logs(self, *names: str) -> Mapping[str, Console]:
        """Return the console logs of the nodes, by default of all nodes that `machines` returns.

        A log is empty until the machine starts. A log ends with the machine, so read it before `remove` if needed.
        """
        ...

    def journals(self, *names: str) -> Mapping[str, Console]:
        """Return copies of the nodes' journals, by default of all nodes that `machines` returns.

        Each line is an entry as a JSON object (`journalctl --output=json`). A copy is empty if the machine cannot make
        one, for example because an older bake made it. A copy ends with the machine.
        """
        ...

    def attach(self, name: str) -> None:
        """Connect the terminal to a planned node's serial console. Return when the user types Ctrl-] or the node stops.

        Raise BakeError if the machine is missing or does not run.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A VM, network or volume of a cluster, and the cluster id in its tag."""

    kind: str
    name: str
    cluster_id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} (cluster id {self.cluster_id or 'unknown'})"


class Hosts(Protocol):
    """The hosts of the machines of all clusters. These methods need no plan, and no cluster's folder.

    An empty `cluster_id` means every cluster with the name.
    """

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        """Return the objects that `destroy` would remove."""
        ...

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        """Remove a cluster's machines, networks and volumes. Return their names."""
        ...

    def used_images(self) -> set[str]:
        """Return the digests of the images from which the machines of all clusters were made."""
        ...
