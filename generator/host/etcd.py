"""A client for one etcd endpoint: its JSON gateway (etcd 3.5, 3.6) over mutual TLS.

The gateway has its own ways: bytes are base64, 64-bit integers are strings, and what is unset is left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from generator.errors import BakeError
from generator.host.tls import ClientFiles, reason, trusting_context

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
    """etcd answered with an error. `status` is the HTTP status."""

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
        session = self.__dict__.pop("_session", None)
        if session is not None:
            session.close()

    def members(self) -> tuple[Member, ...]:
        """The member list, as the leader has it."""
        answer = self._call("cluster/member/list", {"linearizable": True})
        return tuple(self._parsed(parse_member, member) for member in answer.get("members", []))

    def status(self) -> Status:
        return self._parsed(parse_status, self._call("maintenance/status", {}))

    def alarms(self) -> tuple[Alarm, ...]:
        answer = self._call("maintenance/alarm", {"action": "GET"})
        return tuple(self._parsed(parse_alarm, alarm) for alarm in answer.get("alarms", []))

    def hash_kv(self, revision: int) -> HashKv:
        """The digest of every key and value up to a revision, from this member's own data."""
        return self._parsed(parse_hash, self._call("maintenance/hashkv", {"revision": str(revision)}))

    def get(self, key: bytes, *, prefix: bool = False, keys_only: bool = False, limit: int = 0) -> Keys:
        """Read a key, or all keys that begin with it. Linearizable: without a quorum there is no answer."""
        body: dict[str, Any] = {"key": _encode(key), "keys_only": keys_only, "limit": str(limit)}
        if prefix:
            body |= {"key": _encode(key or EVERY_KEY), "range_end": _encode(prefix_end(key))}
        return self._parsed(parse_keys, self._call("kv/range", body))

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        """Write a key; with a lease, it vanishes with it."""
        self._call("kv/put", {"key": _encode(key), "value": _encode(value), "lease": str(lease)})

    def delete(self, key: bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all keys that begin with it; says how many there were."""
        if prefix and not key:
            raise ValueError("an empty prefix is the whole keyspace")
        body = {"key": _encode(key)} | ({"range_end": _encode(prefix_end(key))} if prefix else {})
        return self._parsed(lambda answer: int(answer.get("deleted", 0)), self._call("kv/deleterange", body))

    def grant_lease(self, seconds: int) -> int:
        """A lease: what is written with it vanishes after so many seconds, whatever becomes of us."""
        answer = self._call("lease/grant", {"TTL": str(seconds)})
        return self._parsed(lambda answer: int(answer["ID"]), answer)

    def revoke_lease(self, lease: int) -> None:
        """End a lease and delete every key that was written with it."""
        self._call("lease/revoke", {"ID": str(lease)})

    def _call(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        requests = _requests()
        try:
            reply = self._session.post(
                f"{self.endpoint}/v3/{method}", json=body, timeout=self.timeout, allow_redirects=False
            )
            answer = self._read(reply)
        except requests.RequestException as error:
            raise NoAnswerError(self.endpoint, _cause(error)) from error
        except OSError as error:  # requests' own word for a certificate file that is not there
            raise EtcdError(self.endpoint, str(error), hint="bake again, or give the right --out") from error
        if reply.status_code != 200:
            cause = answer.get("message") or answer.get("error") or f"HTTP status {reply.status_code}"
            raise RefusedError(self.endpoint, str(cause), status=reply.status_code)
        return answer

    def _read(self, reply: Any) -> dict[str, Any]:
        """The JSON object of a reply. An error may come with an empty body (etcd issue 20332)."""
        try:
            answer = reply.json()
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        if reply.status_code != 200:
            return {}
        raise NoAnswerError(self.endpoint, "an empty answer" if not reply.content else _NOT_ETCD)

    def _parsed(self, parse: Callable[[Mapping[str, Any]], T], answer: Mapping[str, Any]) -> T:
        try:
            return parse(answer)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise NoAnswerError(self.endpoint, _NOT_ETCD) from error

    @cached_property
    def _session(self) -> Any:
        session = _requests().Session()
        session.trust_env = False  # no proxy, no .netrc, no CA bundle from the environment
        session.mount("https://", _adapter())
        session.verify = str(self.files.ca)
        session.cert = (str(self.files.cert), str(self.files.key))
        return session


def _adapter() -> Any:
    """requests' own way to a server, but with a TLS context of ours."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **settings: Any) -> None:
            super().init_poolmanager(*args, ssl_context=trusting_context(), **settings)

    return Adapter()


def parse_member(answer: Mapping[str, Any]) -> Member:
    return Member(
        id=int(answer["ID"]),
        name=str(answer.get("name", "")),
        peer_urls=tuple(answer.get("peerURLs", ())),
        client_urls=tuple(answer.get("clientURLs", ())),
        is_learner=answer.get("isLearner", False) is True,
    )


def parse_status(answer: Mapping[str, Any]) -> Status:
    header = answer["header"]
    return Status(
        cluster_id=int(header["cluster_id"]),
        member_id=int(header["member_id"]),
        leader=int(answer.get("leader", 0)),
        raft_term=int(answer.get("raftTerm", 0)),
        raft_index=int(answer.get("raftIndex", 0)),
        revision=int(header.get("revision", 0)),
        db_size=int(answer.get("dbSize", 0)),
        version=str(answer["version"]),
        is_learner=answer.get("isLearner", False) is True,
        errors=tuple(map(str, answer.get("errors", ()))),
    )


def parse_alarm(answer: Mapping[str, Any]) -> Alarm:
    return Alarm(member_id=int(answer.get("memberID", 0)), kind=str(answer.get("alarm", "NONE")))


def parse_hash(answer: Mapping[str, Any]) -> HashKv:
    return HashKv(hash=int(answer.get("hash", 0)), compact_revision=int(answer.get("compact_revision", 0)))


def parse_keys(answer: Mapping[str, Any]) -> Keys:
    items = tuple(
        KeyValue(key=_decode(kv["key"]), value=_decode(kv.get("value", ""))) for kv in answer.get("kvs", ())
    )
    return Keys(count=int(answer.get("count", 0)), revision=int(answer["header"]["revision"]), items=items)


def prefix_end(prefix: bytes) -> bytes:
    """The key just behind every key with this prefix, as a range's end."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else EVERY_KEY


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise BakeError("the Python package requests is missing", hint='pip install "bake[vm]"') from error
    return requests


def _cause(error: BaseException) -> str:
    """The innermost reason in a few words; requests wraps it several layers deep."""
    requests = _requests()
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    chain = list(_chain(error))
    if isinstance(error, requests.Timeout) or any(isinstance(link, TimeoutError) for link in chain):
        return "no answer in time"
    return next((text for link in reversed(chain) if (text := reason(link))), str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
