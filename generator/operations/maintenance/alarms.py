"""`bake alarm`: list the alarms of etcd with the remedies, and clear alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from generator.errors import UnhealthyError
from generator.etcd import observe
from generator.etcd.answers import Alarm
from generator.etcd.client import Etcd
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.operations.maintenance.survey import MemberState, Survey, client_of, quota_of, survey

ROOM = 0.9  # of the quota; etcd raises NOSPACE again as soon as the database of a member is larger than the quota


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveAlarm:
    """An alarm of a member. `member_id`: hexadecimal, as in etcdctl."""

    node: str
    member_id: str
    alarm: str
    meaning: str
    remedy: str


def list_alarms(cluster: Cluster, found: Survey | None = None) -> tuple[ActiveAlarm, ...]:
    """Return the active alarms in the order of the plan's nodes."""
    found = found or survey(cluster)
    return explain(cluster, found.alarms, {one.member.id: one.name for one in found.members})


def explain(cluster: Cluster, found: Sequence[Alarm], names: Mapping[int, str]) -> tuple[ActiveAlarm, ...]:
    """Return alarms with meanings and remedies, in the order of the plan's nodes. `names`: the members' names by id."""
    places = {node.name: place for place, node in enumerate(cluster.plan.nodes)}
    explained = (_explain(cluster, alarm, names) for alarm in found)
    return tuple(sorted(explained, key=lambda one: places.get(one.node, len(places))))


def _explain(cluster: Cluster, alarm: Alarm, names: Mapping[int, str]) -> ActiveAlarm:
    meaning, remedy = _texts(cluster, names.get(alarm.member_id, "NODE"))[alarm.kind]
    return ActiveAlarm(
        node=names.get(alarm.member_id, "(not a member)"), member_id=f"{alarm.member_id:x}", alarm=alarm.kind,
        meaning=meaning, remedy=remedy,
    )  # fmt: skip


def _texts(cluster: Cluster, node: str) -> dict[str, tuple[str, str]]:
    """Return meaning and remedy of each kind of alarm of a node."""

    def bake(words: str) -> str:
        return command(cluster.store, words)

    return {
        "NOSPACE": (
            "the database has reached its quota, and etcd refuses all writes except deletions",
            f"delete keys that you do not need, run {bake('defrag --compact')}, then {bake('alarm disarm')}; "
            "or set a larger quota-backend-bytes in etcd.options",
        ),
        "CORRUPT": (
            "the data of the member differs from the data of the other members, and etcd refuses all writes",
            "stop the clients, save the data folder of each member, "
            f"run {bake('alarm disarm')}, then at once {bake(f'replace {node}')}",
        ),
    }


def disarm(cluster: Cluster, *, consent: Callable[[str], None]) -> tuple[ActiveAlarm, ...]:
    """Clear all alarms, and return them. Call `consent` before an alarm CORRUPT is cleared.

    Raise UnhealthyError if a database is still too large, or if etcd raises an alarm again.
    """
    found = survey(cluster)
    alarms = list_alarms(cluster, found)
    if any(alarm.alarm == "NOSPACE" for alarm in alarms) and (tight := list(_without_room(cluster, found))):
        text = f"there is not enough room yet: {'; '.join(tight)}"
        raise UnhealthyError(text, hint=_texts(cluster, "NODE")["NOSPACE"][1])
    if corrupt := ", ".join(alarm.node for alarm in alarms if alarm.alarm == "CORRUPT"):
        consent(f"the data of {corrupt} differs from the data of the other members; without the alarm, clients read it")
    nodes = [one.node for one in found.members if one.node and one.error is None]
    for alarm in found.alarms:
        with client_of(cluster, nodes[0].client_url) as etcd:
            etcd.disarm(alarm)
    left = observe.first_answer(nodes, client_files(cluster.store.folder), Etcd.alarms)
    if left.value:
        kinds = ", ".join(sorted({alarm.kind for alarm in left.value}))
        raise UnhealthyError(f"etcd raised the alarm again: {kinds}", hint=f"run {command(cluster.store, 'alarm')}")
    return alarms


def _without_room(cluster: Cluster, found: Survey) -> Iterator[str]:
    """Yield each member whose database is close to the quota, or whose database has an unknown size."""
    yield from filter(None, (_tight(cluster, one) for one in found.members))


def _tight(cluster: Cluster, one: MemberState) -> str | None:
    if one.status is None:
        return f"{one.name} does not answer: {one.error}"
    quota = quota_of(cluster, one.status)
    if quota is None or one.status.db_size <= ROOM * quota:
        return None
    return f"the database of {one.name} has {one.status.db_size} bytes, more than {ROOM:.0%} of its quota of {quota}"
