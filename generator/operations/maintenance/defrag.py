"""`bake defrag`: give the free space in the databases of the members back to the disks, one member at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from generator.errors import UnhealthyError, WaitTimeoutError
from generator.etcd import observe
from generator.etcd.answers import Status
from generator.etcd.client import EtcdError
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.operations.maintenance.leader import transfer
from generator.operations.maintenance.survey import MemberState, Survey, client_of, healthy, quota_of
from generator.plan import NodePlan
from generator.progress import Report

# While a member defragments its database, it serves no request. The gain must be worth the pause.
LEAST_GAIN = 100 << 20  # bytes
LEAST_SHARE = 0.45  # of the database
FULL_SHARE = 0.8  # of the quota; a database that is fuller than this is defragmented for any gain
_LEAST_SECONDS, _BYTES_PER_SECOND = 60, 5 << 20  # the time limit for a member, even with a slow disk
_BACK_SECONDS = 60.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Defragmentation:
    """The result for a member. `before`, `in_use`, `after`: bytes; `after` is None if the database was not rewritten.

    `reason`: why the database was rewritten or not. `seconds`: how long the member served no request.
    """

    node: str
    leader: bool
    before: int
    in_use: int
    after: int | None
    reason: str
    seconds: float | None


def gain_of(status: Status) -> int:
    """Return the free bytes in a member's database."""
    return max(0, status.db_size - status.db_size_in_use)


def worth(cluster: Cluster, status: Status, *, full: bool) -> tuple[bool, str]:
    """Return whether to defragment a member, and the reason. `full`: whether etcd reports the alarm NOSPACE."""
    gain, quota = gain_of(status), quota_of(cluster, status)
    if gain == 0:
        return False, "no free space in the database"
    if full:
        return True, "the alarm NOSPACE is active"
    if quota and status.db_size > FULL_SHARE * quota:
        return True, f"the database uses {status.db_size / quota:.0%} of its quota"
    if gain >= LEAST_GAIN and gain >= LEAST_SHARE * status.db_size:
        return True, f"{gain / status.db_size:.0%} of the database is free"
    least = f"at least {LEAST_GAIN >> 20} MiB and {LEAST_SHARE:.0%} of the database"
    return False, f"too little free space: {least} must be free"


def compact(cluster: Cluster, *, report: Report) -> int:
    """Delete the history of all keys before the current revision, on every member. Return the revision.

    A client that reads or watches an older revision gets an error.
    """
    found = healthy(cluster)
    revision = max(one.status.revision for one in found.members if one.status)
    report(f"deleting the history before revision {revision}")
    for one in found.members:
        if one.node and one.status:
            with client_of(cluster, one.node.client_url) as etcd:
                etcd.compact(revision, _limit(one.status))
    return revision


def defragment(cluster: Cluster, *, force: bool, report: Report) -> tuple[Defragmentation, ...]:
    """Defragment each member that needs it (see `worth`), or each member if `force`. The leader is the last member.

    Before each member, check that all members are healthy. Move the leader away before its defragmentation, so that
    the other members can accept writes meanwhile. Raise UnhealthyError or WaitTimeoutError at the first member that
    does not become healthy again.
    """
    first = healthy(cluster)
    full = any(alarm.kind == "NOSPACE" for alarm in first.alarms)
    verdicts = {one.name: worth(cluster, _status(one), full=full) for one in first.members}
    waiting = {name for name, (pays, _) in verdicts.items() if pays or force}
    times: dict[str, tuple[int, float]] = {}
    moved: set[str] = set()
    while waiting:
        found = healthy(cluster)
        one = _next(found, waiting)
        others = [other for other in found.voters if other.member.id != one.member.id]
        if one.member.id == found.leader and others and one.name not in moved:
            moved.add(one.name)
            transfer(cluster, found, min(others, key=found.lag), report=report)
            continue  # check the health again
        waiting.discard(one.name)
        times[one.name] = _run(cluster, one, report)
    return tuple(_result(first, one, verdicts[one.name][1], times.get(one.name)) for one in first.members)


def _status(one: MemberState) -> Status:
    """Return the status of a member that `healthy` accepted."""
    if one.status is None:
        raise ValueError(f"{one.name} has no status")
    return one.status


def _next(found: Survey, waiting: Iterable[str]) -> MemberState:
    """Return the next member: a follower, or the leader if it is the only member left."""
    left = [one for one in found.members if one.name in waiting]
    return min(left, key=lambda one: one.member.id == found.leader)


def _run(cluster: Cluster, one: MemberState, report: Report) -> tuple[int, float]:
    """Defragment a member's database, and wait until the member is healthy. Return the new size and the seconds."""
    node, status = _node(one), _status(one)
    report(f"{node.name}: defragmenting a database of {status.db_size >> 10} KiB")
    started, limit = time.monotonic(), _limit(status)
    try:
        with client_of(cluster, node.client_url) as etcd:
            etcd.defragment(limit)
    except EtcdError as error:
        text = f"{node.name}: could not defragment the database: {error.cause}"
        hint = f"run {command(cluster.store, 'status')}; when all members are healthy, run the same command again"
        raise UnhealthyError(text, hint=hint) from None
    seconds = time.monotonic() - started
    return _wait_until_back(cluster, node, status.raft_index).db_size, seconds


def _node(one: MemberState) -> NodePlan:
    """Return the node of a member that `healthy` accepted."""
    if one.node is None:
        raise ValueError(f"{one.name} is not in the plan")
    return one.node


def _limit(status: Status) -> float:
    """Return how many seconds a member may take to rewrite its database."""
    return _LEAST_SECONDS + status.db_size / _BYTES_PER_SECOND


def _wait_until_back(cluster: Cluster, node: NodePlan, raft_index: int) -> Status:
    """Wait until a member has a leader, has at least the log entries up to an index, and serves a read."""
    deadline, error = time.monotonic() + _BACK_SECONDS, ""
    while time.monotonic() < deadline:
        with client_of(cluster, node.client_url) as etcd:
            status = observe.attempt(etcd.status)
            read = observe.attempt(partial(etcd.get, b"health", keys_only=True))
        if status.value and status.value.leader and status.value.raft_index >= raft_index and read.error is None:
            return status.value
        error = status.error or read.error or "its log is not complete"
        time.sleep(_PAUSE_SECONDS)
    text = f"{node.name} is not healthy {_BACK_SECONDS:.0f} s after its defragmentation: {error}"
    raise WaitTimeoutError(text, hint=f"run {command(cluster.store, 'status')}")


def _result(first: Survey, one: MemberState, reason: str, done: tuple[int, float] | None) -> Defragmentation:
    status = _status(one)
    after, seconds = done or (None, None)
    return Defragmentation(
        node=one.name, leader=one.member.id == first.leader, before=status.db_size, in_use=status.db_size_in_use,
        after=after, reason=reason, seconds=seconds,
    )  # fmt: skip


def defrag_row(one: Defragmentation) -> dict[str, str]:
    """Return a member's row in the table of `bake defrag`."""
    return {
        "node": f"{one.node} (leader)" if one.leader else one.node,
        "size": _size(one.before),
        "in use": _size(one.in_use),
        "gain": _size(max(0, one.before - one.in_use)),
        "new size": "-" if one.after is None else _size(one.after),
        "seconds": "-" if one.seconds is None else f"{one.seconds:.2f}",
        "reason": one.reason,
    }


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"

