"""Query the state of all members. Each maintenance command needs the state before it changes a member."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from generator.errors import UnhealthyError
from generator.etcd import observe
from generator.etcd.answers import Alarm, Answer, Member, Status
from generator.etcd.client import Etcd
from generator.etcd.maintenance_client import MaintenanceClient
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.plan import NodePlan

MAX_LAG = 1000  # log entries that a healthy follower may lack; a busy leader is ahead by some milliseconds of writes
DEFAULT_QUOTA = 2 << 30  # etcd's default for quota-backend-bytes (server/storage/quota.go)
FRESH_SECONDS = 1.0  # a health check older than this is repeated
_TRIES = 5
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """A member's state. `node` is None if the member is not in the plan.

    `error`: why the member cannot serve a linearizable read, or None if the read succeeded.
    """

    member: Member
    node: NodePlan | None
    status: Status | None
    error: str | None

    @property
    def name(self) -> str:
        return self.node.name if self.node else self.member.name or f"{self.member.id:x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The state of all members at one time. `leader`: the id of the leader."""

    members: tuple[MemberState, ...]
    alarms: tuple[Alarm, ...]
    leader: int
    seconds: float  # how long the queries took

    @property
    def voters(self) -> tuple[MemberState, ...]:
        return tuple(one for one in self.members if not one.member.is_learner)

    @property
    def leading(self) -> MemberState:
        return next(one for one in self.members if one.member.id == self.leader)

    @property
    def agrees(self) -> bool:
        """Whether all members that answer have the same leader and can read, which they cannot during an election."""
        return all(one.status.leader == self.leader and not one.error for one in self.members if one.status)

    def lag(self, one: MemberState) -> int:
        """Return how many log entries a member lacks."""
        newest = max(each.status.raft_index for each in self.members if each.status)
        return newest - one.status.raft_index if one.status else newest

    def defect(self, one: MemberState) -> str | None:
        """Return why a member is not healthy, or None."""
        if one.node is None:
            return f"the member {one.name} is not one of the nodes"
        if not one.member.started:
            return f"{one.name} has never started"
        if one.member.is_learner:
            return f"{one.name} is a learner"
        if one.status is None or one.error:
            return f"{one.name} is not healthy: {one.error}"
        if one.status.leader != self.leader:
            return f"{one.name} has another leader than the other members"
        if (lag := self.lag(one)) > MAX_LAG:
            return f"{one.name} lacks {lag} log entries"
        if any(alarm.member_id == one.member.id and alarm.kind == "CORRUPT" for alarm in self.alarms):
            return f"etcd reports that the data of {one.name} is corrupt"
        return None

    def defects(self) -> Iterator[str]:
        """Yield why the cluster is not healthy. An alarm about a full database is no defect."""
        yield from filter(None, map(self.defect, self.members))


def survey(cluster: Cluster) -> Survey:
    """Query every node. Raise UnhealthyError if there is no leader, or if no majority of the voters answers."""
    started, files, nodes = time.monotonic(), client_files(cluster.store.folder), cluster.plan.nodes

    def look(node: NodePlan) -> tuple[Answer[Status], str | None]:
        with Etcd(node.client_url, files) as etcd:
            status = observe.attempt(etcd.status)
            if status.value is None or not status.value.leader:
                return status, status.error or "knows no leader"
            return status, observe.attempt(lambda: etcd.get(b"health", keys_only=True)).error

    looks = dict(zip(nodes, observe.everywhere(look, nodes), strict=True))
    answering = [node for node, (_, error) in looks.items() if error is None]
    members = observe.first_answer(answering, files, Etcd.members)
    alarms = observe.first_answer(answering, files, Etcd.alarms)
    if members.value is None or alarms.value is None:
        causes = [f"{node.name}: {error}" for node, (_, error) in looks.items() if error]
        causes += [f"{node.name}: {members.error or alarms.error}" for node in answering]
        hint = f"run {command(cluster.store, 'status')}"
        raise UnhealthyError(f"no node can read with a quorum: {'; '.join(causes)}", hint=hint)
    leader = next(status.value.leader for node, (status, _) in looks.items() if node in answering and status.value)
    places = {node.peer_url: node for node in nodes}
    states = tuple(_state(member, places, looks) for member in members.value)
    states = tuple(sorted(states, key=lambda one: nodes.index(one.node) if one.node else len(nodes)))
    if leader not in {state.member.id for state in states} or all(state.error for state in states):
        text = "the member list and the nodes' answers do not match; another change may be in progress"
        raise UnhealthyError(text, hint=f"run {command(cluster.store, 'status')}")
    return Survey(members=states, alarms=alarms.value, leader=leader, seconds=time.monotonic() - started)


def _state(
    member: Member, places: dict[str, NodePlan], looks: dict[NodePlan, tuple[Answer[Status], str | None]]
) -> MemberState:
    node = next((places[url] for url in member.peer_urls if url in places), None)
    if node is None:
        return MemberState(member=member, node=None, status=None, error="is not in the plan")
    status, error = looks[node]
    return MemberState(member=member, node=node, status=status.value, error=error)


def healthy(cluster: Cluster) -> Survey:
    """Return a survey of a healthy cluster that is at most a second old. Raise UnhealthyError if there is none."""
    for number in range(_TRIES):
        found = survey(cluster)
        if number < _TRIES - 1 and not found.agrees:  # some members do not know a new leader yet
            time.sleep(_PAUSE_SECONDS)
            continue
        if defects := list(found.defects()):
            hint = f"run {command(cluster.store, 'status')}, and restore the health of the cluster first"
            raise UnhealthyError(f"the cluster is not healthy: {'; '.join(defects)}", hint=hint)
        if found.seconds <= FRESH_SECONDS:
            return found
    text = f"the members took {found.seconds:.1f} s to answer, longer than {FRESH_SECONDS:.0f} s"
    raise UnhealthyError(f"the cluster is too slow: {text}", hint="run the same command again when the load is lower")


def client_of(cluster: Cluster, url: str) -> MaintenanceClient:
    """Return a client for an endpoint, with the operator's certificate."""
    return MaintenanceClient(url, client_files(cluster.store.folder))


def quota_of(cluster: Cluster, status: Status) -> int | None:
    """Return the largest size of a member's database in bytes, or None if it has no limit.

    etcd 3.5 does not report the limit, so the limit comes from the spec.
    """
    stated = status.db_quota or int(cluster.plan.spec.etcd.options.get("quota-backend-bytes", 0))
    return None if stated < 0 else stated or DEFAULT_QUOTA
