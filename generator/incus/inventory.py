"""`Inventory`: the instances and volumes that Incus has of a cluster at one moment, and facts about each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from generator import __version__
from generator.engine import MachineStatus, State
from generator.errors import BakeError
from generator.incus import instances
from generator.incus.client import Incus
from generator.incus.instances import DATA, Instance
from generator.incus.members import Member, list_members
from generator.incus.tags import DATA_SUFFIX, Claim, Tag, data_volume, generation_of, read_tag
from generator.incus.volumes import Volumes, size_of
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report

HOST = "nodes[].host"  # the field that an instance on another member differs in


@dataclass(kw_only=True)
class Inventory:
    """The instances and volumes of a cluster in a project of Incus.

    `remedy`: returns the command that goes on after an error. `command`: returns a bake command for this cluster.
    """

    incus: Incus
    plan: ClusterPlan
    cluster_id: str
    report: Report
    remedy: Callable[[], str]
    command: Callable[[str], str]
    _named: set[str] = field(default_factory=set, init=False)  # the members whose failure has been reported

    @cached_property
    def nodes(self) -> dict[str, NodePlan]:
        return {node.name: node for node in self.plan.nodes}

    @cached_property
    def claim(self) -> Claim:
        return Claim(cluster=self.plan.name, cluster_id=self.cluster_id)

    @cached_property
    def volumes(self) -> Volumes:
        return Volumes(incus=self.incus, pool=self.plan.spec.incus.pool, claim=self.claim)

    def tag(self, node: str, **facts: str) -> Tag:
        """Return a new tag for an object of a node."""
        return Tag(cluster=self.plan.name, id=self.cluster_id, node=node, version=__version__, **facts)

    def members(self) -> dict[str, Member]:
        return {one.name: one for one in list_members(self.incus)}

    def look(self) -> dict[str, list[Instance]]:
        """Return the instances of each node, the newest first. Report a member that is off, once."""
        offline = [one.name for one in self.members().values() if not one.online]
        found: dict[str, list[Instance]] = {}
        for one in instances.list_instances(self.incus, self.claim, self.nodes, offline):
            found.setdefault(one.node, []).append(one)
        silent = {one.location for group in found.values() for one in group if one.state is State.UNKNOWN}
        for member in sorted(silent - self._named):
            self.report(f"warning: host {member} does not answer: Incus reports it as off")
        self._named = silent
        return found

    def finder(self, name: str) -> Callable[[], str]:
        """Return a function that returns the name of a node's newest instance, or "" without one."""
        return lambda: next((one.name for one in self.look().get(name, []) if one.tag is not None), "")

    def own(self, name: str, found: Mapping[str, list[Instance]] | None = None) -> Instance | None:
        """Return a node's newest instance, or None. `found`: what `look` has returned.

        Raise BakeError if the instance belongs to another cluster, or if its member is off.
        """
        group = (self.look() if found is None else found).get(name, [])
        if not group:
            return None
        one = group[0]
        if one.state is State.FOREIGN:
            raise self.claim.refuse(one.tag, f"the existing Incus instance {one.name}")
        if one.state is State.UNKNOWN:
            text = f"host {one.location} does not answer, and has the container of {name}"
            replace = self.command(f"replace {name}")
            raise BakeError(text, hint=f"start the host, or create the node on another host: {replace}")
        return one

    def replace(self, name: str) -> str:
        """Return a hint to replace a node."""
        return f"give the node a new container and a new volume: {self.command(f'replace {name}')}"

    def existing(self, name: str) -> Instance:
        """Return a planned node's newest instance. Raise BakeError if the node has none."""
        self.plan.select([name])
        one = self.own(name)
        if one is None:
            raise BakeError(f"{name} has no container", hint=f"create it: {self.remedy()}")
        return one

    def reachable_volumes(self) -> list[dict[str, Any]]:
        """Return the cluster's volumes on the members that answer."""
        members = self.members()
        return [
            one for one in self.volumes.list()
            if (member := members.get(one.get("location") or "")) is None or member.online
        ]  # fmt: skip

    # --- the facts about the nodes ----------------------------------------------------------------------------

    def machines(self) -> dict[str, MachineStatus]:
        found, volumes = self.look(), self.reachable_volumes()
        data = {one["name"]: size_of(one) for one in volumes if one["name"].endswith(DATA_SUFFIX)}
        left = {tag.node for one in volumes if (tag := read_tag(one["config"])) is not None and tag.node}
        names = dict.fromkeys([*self.nodes, *sorted({*found, *left})])
        return {name: self._status(name, found.get(name, []), data) for name in names}

    def _status(self, name: str, found: list[Instance], data: Mapping[str, int]) -> MachineStatus:
        """Return the facts about a node. Its newest instance counts; an older one is a copy."""
        node = self.nodes.get(name)
        if not found or found[0].tag is None or found[0].state is State.FOREIGN:
            instances_of = {volume: volume.removesuffix(DATA_SUFFIX) for volume in data}
            lost = [data[one] for one, name_of in instances_of.items() if generation_of(self.plan.name, name, name_of)]
            return MachineStatus(
                node=name, state=found[0].state if found else State.MISSING, planned=node is not None,
                data_size=0 if found else max(lost, default=0), host=found[0].location if found else "",
            )  # fmt: skip
        one, tag = found[0], found[0].tag
        size = data.get(data_volume(one.name), 0)
        moves = node is not None and node.host not in ("", one.location)
        rebuild = () if node is None else instances.find_rebuilds(one, self.plan, data_size=size)
        return MachineStatus(
            node=name, state=one.state, planned=node is not None, disk_size=self.plan.spec.vm.disk << 30,
            data_size=0 if moves else size, lost_data=DATA in one.devices and not size and not moves,
            outdated=() if node is None else instances.find_outdated(one, self.plan, node),
            rebuild=(HOST, *rebuild) if moves else rebuild, image=tag.image, built=tag.built, seed=tag.seed,
            has_seed=bool(one.seed_volume), host=one.location,
            copies=tuple(old.location for old in found[1:] if old.state not in (State.UNKNOWN, State.FOREIGN)),
        )  # fmt: skip

