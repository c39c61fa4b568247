"""Watch the members of a running cluster: every node is asked again and again, each in a thread of its own.

The queries read only what a node knows itself, so they need no quorum and write nothing to etcd's log.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Self

from generator.etcd.answers import ALARMS, Alarm, Answer, Member, Status
from generator.etcd.client import Etcd
from generator.etcd.observe import attempt
from generator.etcd.tls_probe import ClientFiles
from generator.operations import certs
from generator.operations.baked_cluster import Cluster
from generator.operations.status import ClusterStatus, MemberRole, NodeStatus, node_status
from generator.plan import ClusterPlan, NodePlan

_TIMEOUT = (2.0, 3.0)  # seconds; shorter than elsewhere, because the row of a silent node must change soon
_KEPT_ROUNDS = 20
_ALARM = re.compile(r"memberID:(\d+) alarm:(\w+)")  # how etcd prints an alarm among the errors of Maintenance/Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a node has answered last. `round`: the number of the interval in which bake asked.

    `members`: the node's own member list, or () if it did not answer. `since`: when the node began to be silent
    (monotonic, in seconds), or None if it answers.
    """

    round: int
    status: Answer[Status]
    members: tuple[Member, ...] = ()
    since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A member. `node.error` lacks the alarms, which are in `View.alarms`.

    `lag`: log entries that the member lacks, compared with the newest entry of the same round, or None. `silent`:
    seconds without an answer, or None. `asked`: whether bake has a result of the node already. `planned`: False for a
    member of etcd that is not a node of the cluster.
    """

    node: NodeStatus
    lag: int | None = None
    silent: float | None = None
    asked: bool = True
    planned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The members at one time: the nodes in the plan's order, then members that are not in the plan."""

    rows: tuple[Row, ...]
    members: tuple[Member, ...]
    alarms: tuple[Alarm, ...]

    @property
    def answering(self) -> int:
        return sum(row.node.reachable for row in self.rows)

    @property
    def leader(self) -> str | None:
        return next((row.node.name for row in self.rows if row.node.role is MemberRole.LEADER), None)

    @property
    def complete(self) -> bool:
        """Whether bake has a result of every node."""
        return all(row.asked for row in self.rows)

    @property
    def names(self) -> dict[int, str]:
        """The members' names by id."""
        return {int(row.node.member_id, 16): row.node.name for row in self.rows if row.node.member_id}

    @property
    def status(self) -> ClusterStatus:
        return ClusterStatus(nodes=tuple(row.node for row in self.rows if row.planned), members=self.members)


def view_of(
    plan: ClusterPlan, samples: Mapping[str, Sample], newest: Mapping[int, int], *, time: float = 0
) -> View:
    """Return the members from the nodes' last answers. `newest`: the newest log index of each round."""
    lists = [sample for sample in samples.values() if sample.members]
    leading = [one for one in lists if one.status.value and one.status.value.leader]
    members = max(leading or lists, key=lambda one: one.round).members if lists else ()
    rows = [_row(node, samples.get(node.name), members, newest, time) for node in plan.nodes]
    urls = {node.peer_url for node in plan.nodes}
    rows += [_unplanned(one) for one in members if not urls & {*one.peer_urls}]
    statuses = [sample.status.value for sample in samples.values() if sample.status.value]
    alarms = {alarm for one in statuses for text in one.errors for alarm in alarms_in(text)}
    ordered = sorted(alarms, key=lambda one: (one.member_id, one.kind))
    return View(rows=tuple(rows), members=members, alarms=tuple(ordered))


def _row(
    node: NodePlan, sample: Sample | None, members: Iterable[Member], newest: Mapping[int, int], time: float
) -> Row:
    if sample is None:
        return Row(node=NodeStatus(name=node.name, address=str(node.address), reachable=False), asked=False)
    answer, status = sample.status, sample.status.value
    if status:
        errors = tuple(text for text in status.errors if not alarms_in(text))
        answer = Answer(replace(status, errors=errors))
    index = newest.get(sample.round)
    lag = None if status is None or index is None else max(index - status.raft_index, 0)
    silent = None if sample.since is None else max(time - sample.since, 0)
    return Row(node=node_status(node, answer, members), lag=lag, silent=silent)


def _unplanned(member: Member) -> Row:
    role = MemberRole.LEARNER if member.is_learner else MemberRole.VOTER if member.started else MemberRole.UNSTARTED
    node = NodeStatus(
        name=member.name or "(not started)", address=", ".join(member.peer_urls), reachable=False,
        member_id=f"{member.id:x}", role=role, error="is not one of the nodes",
    )  # fmt: skip
    return Row(node=node, planned=False)


def alarms_in(text: str) -> list[Alarm]:
    """Return the alarms in an error of etcd's call Maintenance/Status."""
    return [Alarm(member_id=int(number), kind=kind) for number, kind in _ALARM.findall(text) if kind in ALARMS[1:]]


@dataclass
class Watch:
    """Asks the nodes in every interval, from `__enter__` to `__exit__`. `interval`: in seconds."""

    plan: ClusterPlan
    files: ClientFiles
    interval: float
    clock: Callable[[], float] = time.monotonic
    _samples: dict[str, Sample] = field(default_factory=dict)
    _newest: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _start: float = 0
    _failure: Exception | None = None

    def __enter__(self) -> Self:
        """Start the threads. They are daemons, so the end of bake does not wait for a node that does not answer."""
        self._start = self.clock()
        for node in self.plan.nodes:
            threading.Thread(target=self._poll, args=[node], daemon=True, name=node.name).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def view(self) -> View:
        """Return the members now. Raise the error that ended a thread, such as a missing Python package."""
        with self._lock:
            if self._failure:
                raise self._failure
            return view_of(self.plan, self._samples, self._newest, time=self.clock())

    def _poll(self, node: NodePlan) -> None:
        try:
            with Etcd(node.client_url, self.files, timeout=_TIMEOUT) as etcd:
                while not self._over.is_set():
                    number = int((self.clock() - self._start) / self.interval)
                    status = attempt(etcd.status)
                    members = attempt(partial(etcd.members, linearizable=False)).value if status.value else None
                    self._keep(node.name, number, status, members or ())
                    begin = self._start + (number + 1) * self.interval  # the same moment for all nodes
                    self._over.wait(max(begin - self.clock(), 0))
        except Exception as error:  # the main thread raises it again
            self._failure = error

    def _keep(self, node: str, number: int, status: Answer[Status], members: tuple[Member, ...]) -> None:
        with self._lock:
            last, since = self._samples.get(node), None
            if status.value is None:
                since = self.clock() if last is None or last.since is None else last.since
            else:
                self._newest[number] = max(self._newest.get(number, 0), status.value.raft_index)
                for old in [one for one in self._newest if one < number - _KEPT_ROUNDS]:
                    del self._newest[old]
            self._samples[node] = Sample(round=number, status=status, members=members, since=since)


def next_to_expire(cluster: Cluster, *, now: datetime) -> dict[str, certs.Entry]:
    """Return each owner's certificate that expires first."""
    found: dict[str, certs.Entry] = {}
    for entry in certs.entries(cluster, now=now):
        found[entry.owner] = min(found.get(entry.owner, entry), entry, key=lambda one: (one.days_left, one.role))
    return found
