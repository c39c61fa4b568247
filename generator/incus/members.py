"""The members of an Incus cluster, and which of them a new node's instance gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from generator.config.placement import node_names, node_pins
from generator.config.spec import ClusterSpec, NetworkMode
from generator.errors import BakeError, InputError
from generator.incus.client import Incus, IncusError

NO_DOMAIN = "default"  # Incus gives a member this failure domain if its administrator chose none


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of an Incus cluster. A server without a cluster is its only member, with the name "".

    `failure_domain`: as Incus has it. `groups`: the cluster groups that have the member.
    """

    name: str
    online: bool
    failure_domain: str = NO_DOMAIN
    groups: frozenset[str] = frozenset()

    @property
    def domain(self) -> str:
        """What fails together with the member. A member without a failure domain fails alone."""
        return f"member {self.name}" if self.failure_domain == NO_DOMAIN else self.failure_domain


def list_members(incus: Incus) -> tuple[Member, ...]:
    """Return the members of the cluster. A member that is evacuated takes no new instance, so it counts as off."""
    if not incus.get()["environment"].get("server_clustered"):
        return (Member(name="", online=True),)
    return tuple(
        Member(
            name=one["server_name"], online=one["status"] == "Online",
            failure_domain=one.get("failure_domain") or NO_DOMAIN, groups=frozenset(one.get("groups") or ()),
        )
        for one in incus.get("cluster", "members", recursion="1")
    )  # fmt: skip


def removed_unless_off(incus: Incus, location: str, off: set[str], remove: Callable[[], Iterable[str]]) -> list[str]:
    """Call `remove` for something on a member, and return its names. Add a member that is off to `off`.

    A member that has just failed is still "Online" for some seconds. Then the call fails, and the member is looked at
    again.
    """
    if location in off:
        return []
    try:
        return list(remove())
    except IncusError as error:
        if location not in {one.name for one in list_members(incus) if not one.online}:
            where = f"host {location}: " if location else ""
            raise BakeError(f"{where}{error.message}", hint=error.hint) from None
    off.add(location)
    return []


def choose_target(
    members: Sequence[Member], used: Iterable[str], *, pin: str = "", group: str | None = None
) -> str:
    """Return the `target` for a new instance: a member, `@GROUP`, or "" if Incus may choose any member.

    `used`: for each other node of the cluster, the member that has it. `pin`: the member that the user has chosen.

    The instance gets a failure domain with the fewest nodes of the cluster. Incus chooses the member in it, if it can:
    Incus knows single members and groups only. Otherwise the first member with the fewest nodes gets the instance.
    """
    if pin:
        return pin
    free = [one for one in members if one.online and (group is None or group in one.groups)]
    if not free:
        where = f"the Incus cluster group {group}" if group else "the Incus cluster"
        raise BakeError(f"no member of {where} takes a new instance", hint="see `incus cluster list`")
    domains = {one.name: one.domain for one in members}
    on_member = Counter(used)
    in_domain = Counter(domains[name] for name in on_member.elements() if name in domains)
    fewest = min(in_domain[one.domain] for one in free)
    fitting = [one for one in free if in_domain[one.domain] == fewest]
    if len(fitting) == len(free):
        return f"@{group}" if group else ""
    names = {one.name for one in fitting}
    for name in sorted(set().union(*(one.groups for one in fitting))):
        has = {one.name for one in members if one.online and name in one.groups}
        if len(has) > 1 and has == names:
            return f"@{name}"
    return min(fitting, key=lambda one: on_member[one.name]).name


def require_section(incus: Incus, spec: ClusterSpec) -> None:
    """Raise InputError if Incus does not have what the cluster file names: pool, profile, group, network, members."""
    section = spec.incus
    _require(incus, "incus.pool", section.pool, "storage pool", "incus storage list")
    if section.profile:
        _require(incus, "incus.profile", section.profile, "profile", "incus profile list")
    if spec.network.mode is NetworkMode.NETWORK and spec.network.name:
        _require(incus, "network.name", spec.network.name, "network", "incus network list")
    members = {one.name: one for one in list_members(incus)}
    if section.group and not any(section.group in one.groups for one in members.values()):
        rule = f"Incus at {incus.address} has no cluster group {section.group!r} with a member"
        raise InputError.one("incus.group", rule, "use one of `incus cluster group list`, or leave the field out")
    for index, (name, pin) in enumerate(zip(node_names(spec), node_pins(spec), strict=True)):
        if pin is not None:
            require_member(members, pin, f"nodes[{index}].host", f"{name}: ")


def require_member(members: Mapping[str, Member], name: str, where: str, prefix: str = "") -> None:
    """Raise InputError if the cluster has no member with this name."""
    if name not in members:
        known = ", ".join(sorted(filter(None, members))) or "none, because Incus is not clustered"
        raise InputError.one(where, f"{prefix}the Incus cluster has no member {name!r}", f"its members are: {known}")


def find_member(incus: Incus, name: str, where: str) -> None:
    """Raise InputError if the cluster has no member with this name, and BakeError if it is off. `where`: the field."""
    require_online({one.name: one for one in list_members(incus)}, name, where)


def require_online(members: Mapping[str, Member], name: str, where: str, prefix: str = "") -> None:
    """Do the same as `find_member` with the members that Incus has returned. `prefix`: begin of the message."""
    require_member(members, name, where, prefix)
    if not members[name].online:
        raise BakeError(f"host {name} does not answer: Incus reports it as off", hint="start it, or choose another")


def _require(incus: Incus, field: str, name: str, kind: str, command: str) -> None:
    """Raise InputError without this object. A restricted certificate may look at an object, but list no pools."""
    if incus.find(f"{kind.replace(' ', '-')}s", name) is None:
        rule = f"the project {incus.project} of Incus at {incus.address} has no {kind} {name!r}"
        raise InputError.one(field, rule, f"use one of `{command}`")
