"""What was seen of a cluster, as plain data: answers of members, of their ports, and reports of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from generator.plan import NodePlan

T = TypeVar("T")
# What a trial writes hangs on a lease: it is gone after this time even if the machine dies in the middle.
LEASE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An entry of the member list. One that has not started has no name yet."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @property
    def started(self) -> bool:
        """Whether it ever joined: it publishes its name and client URLs at its first start."""
        return bool(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a member says of itself; `leader` is 0 while it sees none."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    member_id: int
    kind: str  # NOSPACE or CORRUPT


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKv:
    """A digest of the keyspace up to a revision. Comparable only where `compact_revision` is the same."""

    hash: int
    compact_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The answer to a range: `count` is how many there are, even if a limit kept some out of `items`."""

    count: int
    revision: int
    items: tuple[KeyValue, ...]


class Guest(StrEnum):
    """Who knocks."""

    OPERATOR = "the operator's certificate"
    NOBODY = "no certificate"
    FOREIGN = "a foreign CA's certificate"
    PLAIN = "no TLS"


class Reply(StrEnum):
    """What came of it. `UNREACHABLE`: there was no TCP connection, or nothing came in time."""

    SERVED = "served"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a server's certificate says, once our CA and the address we asked for have been checked."""

    names: tuple[str, ...]  # the subject alternative names
    not_after: datetime
    sha256: str = ""  # of the whole certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    reply: Reply
    detail: str
    certificate: Certificate | None = None
    distrusted: str | None = None  # why we refuse the server's certificate


class Port(StrEnum):
    CLIENT = "client port"
    PEER = "peer port"


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """An answer, or why there is none."""

    value: T | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What one node told. `health` is how many seconds it took to read a key with a quorum's consent."""

    node: NodePlan
    status: Told[Status]
    members: Told[tuple[Member, ...]]
    alarms: Told[tuple[Alarm, ...]]
    health: Told[float]
    knocks: Mapping[tuple[Port, Guest], Knock] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that was seen. `writes` has each node's error, or None where the trial went well."""

    nodes: tuple[NodeView, ...]
    keys: Told[Keys]
    writes: Mapping[str, str | None]
    left_behind: str | None  # why the trial's keys are still there
    hashes: Mapping[str, Told[HashKv]]
    auth: Told[bool] = field(default_factory=Told)  # whether it is on
    nobody: Mapping[str, Told[Keys]] = field(default_factory=dict)  # what a certificate that is no user's reads
    requires_name: Mapping[str, bool] = field(default_factory=dict)  # the peers' name, by the nodes' own reports


def is_walled(knocks: Mapping[tuple[Port, Guest], Knock]) -> bool:
    """Whether a node serves the operator, and something in between keeps even him from the peer port."""
    client, peer = (knocks.get((port, Guest.OPERATOR)) for port in (Port.CLIENT, Port.PEER))
    if client is None or peer is None or client.reply is not Reply.SERVED:
        return False
    return peer.reply is Reply.UNREACHABLE and not peer.distrusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Whose a file is; `mode` is a number."""

    mode: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node saw at a moment. `user` and `options` are the etcd process's own, by flag name."""

    time: datetime
    user: str
    options: Mapping[str, str]
    files: Mapping[str, Owned]
    certificates: Mapping[str, tuple[str, ...]]  # option → SHA-256 of each certificate in its file
