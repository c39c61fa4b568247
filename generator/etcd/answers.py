"""Data types for the state of a running cluster: etcd's answers, results of port probes, and node reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from generator.plan import NodePlan

T = TypeVar("T")
# The test keys of `bake verify` have a lease, so etcd deletes the keys even if bake is killed.
LEASE_SECONDS = 60
ALARMS = ("NONE", "NOSPACE", "CORRUPT")  # etcd's numbers for the kinds of alarms are 0, 1 and 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An entry of etcd's member list. `name` is empty until the member has started for the first time."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @property
    def started(self) -> bool:
        """Whether the member has ever started. A member publishes its name and client URLs at its first start."""
        return bool(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A member's answer to the gRPC call Maintenance/Status. `leader` is 0 if the member knows no leader.

    `db_size`: the size of the database in bytes. `db_size_in_use`: the bytes that remain after a defragmentation.
    `db_quota`: the largest size of the database, or 0 if the member does not report it (etcd 3.5).
    """

    cluster_id: int
    member_id: int
    leader: int
    raft_term: int
    raft_index: int
    revision: int
    db_size: int
    version: str
    is_learner: bool
    errors: tuple[str, ...]
    db_size_in_use: int = 0
    db_quota: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    member_id: int
    kind: str  # one of ALARMS, but not NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKv:
    """A digest of all keys up to a revision. Two digests are comparable only if their `compact_revision` is equal."""

    hash: int
    compact_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The result of a range request. `count` counts all keys in the range, even if `items` has only some of them."""

    count: int
    revision: int
    items: tuple[KeyValue, ...]


class ClientKind(StrEnum):
    """The credentials that a probe presents to a port."""

    OPERATOR = "the operator's certificate"
    NO_CERTIFICATE = "no certificate"
    FOREIGN_CA = "another CA's certificate"
    NO_TLS = "no TLS"


class Reply(StrEnum):
    """The reply of a port to a probe. `UNREACHABLE` means no TCP connection, or no answer within the timeout."""

    SERVED = "served"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A server certificate that bake has verified: the cluster's CA issued it for the server's address."""

    names: tuple[str, ...]  # the subject alternative names
    not_before: datetime
    not_after: datetime
    sha256: str = ""  # digest of the whole certificate
    common_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of one connection to a port."""

    reply: Reply
    detail: str
    certificate: Certificate | None = None
    distrusted: str | None = None  # why the server's certificate failed verification

    @property
    def is_unreachable(self) -> bool:
        """Whether no connection was possible. A server whose certificate failed verification has answered."""
        return self.reply is Reply.UNREACHABLE and not self.distrusted


class Port(StrEnum):
    CLIENT = "client port"
    PEER = "peer port"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The result of a call: a value or an error."""

    value: T | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """All answers of one node. `health`: how many seconds a linearizable read of one key took."""

    node: NodePlan
    status: Answer[Status]
    members: Answer[tuple[Member, ...]]
    alarms: Answer[tuple[Alarm, ...]]
    health: Answer[float]
    probes: Mapping[tuple[Port, ClientKind], Probe] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All answers of a cluster's nodes.

    `writes`: for each node, the error of the node's test write or test read, or None.
    """

    nodes: tuple[NodeView, ...]
    keys: Answer[Keys]
    writes: Mapping[str, str | None]
    left_behind: str | None  # the error if bake could not delete its test keys
    hashes: Mapping[str, Answer[HashKv]]
    auth: Answer[bool] = field(default_factory=Answer)  # whether etcd authentication is on
    # For each node: the result of a read by a client that is not an etcd user.
    without_user: Mapping[str, Answer[Keys]] = field(default_factory=dict)
    # For each node with an audit report: whether etcd refuses certificates that lack the peer name.
    requires_name: Mapping[str, bool] = field(default_factory=dict)

    @property
    def unanswered(self) -> str | None:
        """The first call that a node did not answer, with the cause. None if all nodes answered, or if none did."""
        if not any(view.status.value for view in self.nodes):
            return None
        for view in self.nodes:
            name = view.node.name
            probes = [one for (port, _), one in view.probes.items() if port is Port.CLIENT and one.is_unreachable]
            digest = self.hashes.get(name)
            causes = [view.health.error, self.writes.get(name), digest.error if digest else None]
            if cause := next(filter(None, [*causes, *(one.detail for one in probes)]), None):
                return f"{name}: {cause}"
        return None


def is_firewalled(probes: Mapping[tuple[Port, ClientKind], Probe]) -> bool:
    """Return whether the operator can use a node's client port but cannot reach its peer port."""
    client, peer = (probes.get((port, ClientKind.OPERATOR)) for port in (Port.CLIENT, Port.PEER))
    if client is None or peer is None or client.reply is not Reply.SERVED:
        return False
    return peer.is_unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePermissions:
    """A file's mode bits, owner and group."""

    mode: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node's audit report.

    `user`: the account that runs etcd. `options`: the values of etcd's flags. `seed`: the instance-id of the seed that
    the node runs. `seed` is "" in the report of an older node, and while etcd must restart to load a new seed.
    """

    time: datetime
    user: str
    options: Mapping[str, str]
    files: Mapping[str, FilePermissions]
    # etcd option → SHA-256 of each certificate in the file that the option names
    certificates: Mapping[str, tuple[str, ...]]
    seed: str = ""
