"""A client for one etcd endpoint (3.5, 3.6): its gRPC API over mutual TLS.

Not its JSON gateway, which with auth on refuses whoever has a certificate with a common name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from generator.errors import BakeError, InputError
from generator.host.etcd_api import ALARMS, CALLS
from generator.host.protobuf import decode, encode
from generator.host.tls import ClientFiles, operator_context, words

if TYPE_CHECKING:
    from generator.host.grpc import Channel

# etcd gives up on a request after 5 s plus two election timeouts, 7 s by default (server/config, ReqTimeout):
# waiting a little longer lets it say so itself.
Timeout = tuple[float, float]  # seconds to connect, and to wait for an answer
TIMEOUT: Timeout = (3.0, 8.0)
T = TypeVar("T")
_NOT_ETCD = "an answer that is not etcd's"
EVERY_KEY = b"\0"  # as key and as range_end: the whole keyspace (etcd API, "RangeRequest")


class EtcdError(BakeError):
    """An endpoint did not do what it was asked. `cause` says why, without the endpoint."""

    def __init__(self, endpoint: str, cause: str, *, hint: str | None = None) -> None:
        super().__init__(f"{endpoint}: {cause}", hint=hint)
        self.endpoint = endpoint
        self.cause = cause


class NoAnswerError(EtcdError):
    """Nothing that speaks etcd's language to us: no connection, no TLS session, or no answer in time."""


class RefusedError(EtcdError):
    """etcd answered with an error. `status` is gRPC's number for its kind."""

    def __init__(self, endpoint: str, cause: str, *, status: int) -> None:
        super().__init__(endpoint, cause)
        self.status = status


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


class Etcd:
    """One endpoint such as `https://192.168.20.31:2379`. Not for use by several threads at once."""

    def __init__(self, endpoint: str, files: ClientFiles, *, timeout: Timeout = TIMEOUT) -> None:
        self.endpoint = endpoint
        self.files = files
        self.timeout = timeout

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; the next call opens another."""
        channel = self.__dict__.pop("_channel", None)
        if channel is not None:
            channel.close()

    def members(self) -> tuple[Member, ...]:
        """The member list, as the leader has it."""
        answer = self._call("Cluster/MemberList", {"linearizable": True})
        return tuple(map(_member, answer["members"]))

    def status(self) -> Status:
        return self._parsed(_status, self._call("Maintenance/Status", {}))

    def alarms(self) -> tuple[Alarm, ...]:
        answer = self._call("Maintenance/Alarm", {})
        return self._parsed(lambda answer: tuple(map(_alarm, answer["alarms"])), answer)

    def auth_enabled(self) -> bool:
        """Whether only users do anything. With auth on, it tells nobody but a user with the role root."""
        return bool(self._call("Auth/AuthStatus", {})["enabled"])

    def hash_kv(self, revision: int) -> HashKv:
        """The digest of every key and value up to a revision, from this member's own data."""
        answer = self._call("Maintenance/HashKV", {"revision": revision})
        return HashKv(hash=answer["hash"], compact_revision=answer["compact_revision"])

    def get(self, key: bytes, *, prefix: bool = False, keys_only: bool = False, limit: int = 0) -> Keys:
        """Read a key, or all keys that begin with it. Linearizable: without a quorum there is no answer."""
        span = {"key": key or EVERY_KEY, "range_end": prefix_end(key)} if prefix else {"key": key}
        return self._parsed(_keys, self._call("KV/Range", {**span, "limit": limit, "keys_only": keys_only}))

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        """Write a key; with a lease, it vanishes with it."""
        self._call("KV/Put", {"key": key, "value": value, "lease": lease})

    def delete(self, key: bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all keys that begin with it; says how many there were."""
        if prefix and not key:
            raise ValueError("an empty prefix is the whole keyspace")
        answer = self._call("KV/DeleteRange", {"key": key, "range_end": prefix_end(key) if prefix else b""})
        return int(answer["deleted"])

    def grant_lease(self, seconds: int) -> int:
        """A lease: what is written with it vanishes after so many seconds, whatever becomes of us."""
        return int(self._call("Lease/LeaseGrant", {"TTL": seconds})["ID"])

    def revoke_lease(self, lease: int) -> None:
        """End a lease and delete every key that was written with it."""
        self._call("Lease/LeaseRevoke", {"ID": lease})

    def _call(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        grpc, (question, answer) = _grpc(), CALLS[name]
        try:
            data = self._channel.call(f"/etcdserverpb.{name}", encode(question, body))
        except grpc.StatusError as error:
            cause = error.message or f"gRPC status {error.code}"
            raise RefusedError(self.endpoint, cause, status=error.code) from error
        except grpc.NotGrpcError as error:
            raise NoAnswerError(self.endpoint, f"{_NOT_ETCD} ({error})") from error
        except OSError as error:
            raise NoAnswerError(self.endpoint, words(error)) from error
        return self._parsed(lambda data: decode(answer, data), data)

    def _parsed(self, parse: Callable[[Any], T], answer: Any) -> T:
        try:
            return parse(answer)
        except (LookupError, ValueError) as error:
            raise NoAnswerError(self.endpoint, _NOT_ETCD) from error

    @cached_property
    def _channel(self) -> Channel:
        """In the clear for a URL that says so: nothing that bake makes has one."""
        url = urlsplit(self.endpoint)
        context = self._context if url.scheme == "https" else lambda: None
        channel: Channel = _grpc().Channel(url.hostname or "", url.port or 0, context, self.timeout)
        return channel

    def _context(self) -> ssl.SSLContext:
        """Made for each connection: the files may be new ones by then."""
        try:
            return operator_context(self.files)
        except InputError as error:
            text = error.problems[0]
            raise EtcdError(self.endpoint, f"{text.where}: {text.message}", hint=text.hint) from error


def _member(answer: Mapping[str, Any]) -> Member:
    return Member(
        id=answer["ID"], name=answer["name"], peer_urls=answer["peerURLs"], client_urls=answer["clientURLs"],
        is_learner=answer["isLearner"],
    )  # fmt: skip


def _status(answer: Mapping[str, Any]) -> Status:
    header = answer["header"]
    return Status(
        cluster_id=header["cluster_id"],
        member_id=header["member_id"],
        leader=answer["leader"],
        raft_term=answer["raftTerm"],
        raft_index=answer["raftIndex"],
        revision=header["revision"],
        db_size=answer["dbSize"],
        version=answer["version"],
        is_learner=answer["isLearner"],
        errors=answer["errors"],
    )


def _alarm(answer: Mapping[str, Any]) -> Alarm:
    return Alarm(member_id=answer["memberID"], kind=ALARMS[answer["alarm"]])


def _keys(answer: Mapping[str, Any]) -> Keys:
    items = tuple(KeyValue(key=kv["key"], value=kv["value"]) for kv in answer["kvs"])
    return Keys(count=answer["count"], revision=answer["header"]["revision"], items=items)


def prefix_end(prefix: bytes) -> bytes:
    """The key just behind every key with this prefix, as a range's end."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else EVERY_KEY


def _grpc() -> ModuleType:
    """Imported for the first call: `bake --help` needs no HTTP/2."""
    try:
        from generator.host import grpc
    except ImportError as error:
        raise BakeError("the Python package h2 is missing", hint='pip install "bake[vm]"') from error
    return grpc
