"""A client for the gRPC API of one etcd endpoint (etcd 3.5, 3.6) over mutual TLS.

bake cannot use etcd's JSON gateway. While auth is on, the gateway refuses client certificates with a common name.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

from generator.errors import BakeError, InputError
from generator.etcd.answers import ALARMS, Alarm, HashKv, Keys, KeyValue, Member, Reply, Status
from generator.etcd.dial import forwarded
from generator.etcd.tls_probe import ClientFiles, operator_context, probe

# By default, etcd ends a slow request with an error after 7 s (server/config, ReqTimeout).
# bake waits for 8 s, so that it receives etcd's error.
Timeout = tuple[float, float]  # time limits in seconds: for the connection, for the answer
TIMEOUT: Timeout = (3.0, 8.0)
_NOT_ETCD = "the answer is not from etcd"
_ETCD_PREFIXES = ("etcdserver: ", "auth: ", "raft proposal dropped")  # prefixes of all error messages from etcd
_BATCH = 32  # messages of a stream that the event loop receives before it wakes the caller
EVERY_KEY = b"\0"  # as both key and range_end, this byte selects all keys (etcd API, "RangeRequest")


class EtcdError(BakeError):
    """A gRPC call failed. `cause` is the error message without the endpoint's URL."""

    def __init__(self, endpoint: str, cause: str, *, hint: str | None = None) -> None:
        super().__init__(f"{endpoint}: {cause}", hint=hint)
        self.endpoint = endpoint
        self.cause = cause


class NoAnswerError(EtcdError):
    """etcd did not answer: no connection, no TLS session, a timeout, or an answer from another server."""


class RefusedError(EtcdError):
    """etcd answered with an error. `status` is the gRPC status code."""

    def __init__(self, endpoint: str, cause: str, *, status: int) -> None:
        super().__init__(endpoint, cause)
        self.status = status


class Etcd:
    """A client for one endpoint such as `https://192.168.20.31:2379`. Not thread-safe."""

    def __init__(self, endpoint: str, files: ClientFiles, *, timeout: Timeout = TIMEOUT) -> None:
        self.endpoint = endpoint
        self.files = files
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. After `close`, the next request opens a new connection."""
        channel = self.__dict__.pop("_channel", None)
        if channel is not None:
            _loop().call_soon_threadsafe(channel.close)

    def members(self, *, linearizable: bool = True) -> tuple[Member, ...]:
        """Return the cluster's member list. A linearizable read fails without a quorum.

        Otherwise, the endpoint returns its own list, which may be older.
        """
        answer = self._call("Cluster/MemberList", linearizable=linearizable)
        return tuple(
            Member(
                id=one.ID, name=one.name, peer_urls=tuple(one.peerURLs), client_urls=tuple(one.clientURLs),
                is_learner=one.isLearner,
            )
            for one in answer.members
        )  # fmt: skip

    def status(self) -> Status:
        """Return the status of this endpoint's member."""
        answer = self._call("Maintenance/Status")
        return Status(
            cluster_id=answer.header.cluster_id,
            member_id=answer.header.member_id,
            leader=answer.leader,
            raft_term=answer.raftTerm,
            raft_index=answer.raftIndex,
            revision=answer.header.revision,
            db_size=answer.dbSize,
            version=answer.version,
            is_learner=answer.isLearner,
            errors=tuple(answer.errors),
            db_size_in_use=answer.dbSizeInUse,
            db_quota=answer.dbSizeQuota,
        )

    def alarms(self) -> tuple[Alarm, ...]:
        """Return the cluster's active alarms, sorted by member id and kind; etcd's own order is random."""
        alarms = sorted(self._call("Maintenance/Alarm").alarms, key=lambda one: (one.memberID, one.alarm))
        try:
            return tuple(Alarm(member_id=one.memberID, kind=ALARMS[one.alarm]) for one in alarms)
        except IndexError:
            raise NoAnswerError(self.endpoint, _NOT_ETCD) from None

    def auth_enabled(self) -> bool:
        """Return whether authentication is on. While auth is on, etcd's AuthStatus call needs the role root."""
        return bool(self._call("Auth/AuthStatus").enabled)

    def hash_kv(self, revision: int) -> HashKv:
        """Return this member's digest of all keys and values up to a revision."""
        answer = self._call("Maintenance/HashKV", revision=revision)
        return HashKv(hash=answer.hash, compact_revision=answer.compact_revision)

    def get(self, key: bytes, *, prefix: bool = False, keys_only: bool = False, limit: int = 0) -> Keys:
        """Read a key, or all keys that begin with `key`. The read is linearizable, so it fails without a quorum."""
        span: dict[str, Any] = {"key": key or EVERY_KEY, "range_end": prefix_end(key)} if prefix else {"key": key}
        answer = self._call("KV/Range", **span, limit=limit, keys_only=keys_only)
        items = tuple(KeyValue(key=one.key, value=one.value) for one in answer.kvs)
        return Keys(count=answer.count, revision=answer.header.revision, items=items)

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        """Write a key. If the key has a lease, etcd deletes the key when the lease ends."""
        self._call("KV/Put", key=key, value=value, lease=lease)

    def delete(self, key: bytes, *, prefix: bool = False) -> int:
        """Delete a key, or all keys that begin with `key`. Return the number of deleted keys."""
        if prefix and not key:
            raise ValueError("an empty prefix would delete the whole keyspace")
        return int(self._call("KV/DeleteRange", key=key, range_end=prefix_end(key) if prefix else b"").deleted)

    def grant_lease(self, seconds: int) -> int:
        """Create a lease and return its id. After `seconds`, etcd deletes the keys of the lease."""
        return int(self._call("Lease/LeaseGrant", TTL=seconds).ID)

    def revoke_lease(self, lease: int) -> None:
        """Revoke a lease. etcd deletes every key that was written with the lease."""
        self._call("Lease/LeaseRevoke", ID=lease)

    def _call(self, method: str, /, *, header: bool = True, seconds: float | None = None, **values: Any) -> Any:
        """Make one gRPC call. Raise NoAnswerError or RefusedError if the call fails.

        `header`: whether etcd's answer has a header. `seconds`: how long to wait for the answer.
        """
        answer = self._wait(self._ask, method, values, self.timeout[1] if seconds is None else seconds)
        if header and not answer.HasField("header"):
            raise self._failure(_NOT_ETCD)
        return answer

    def _stream(self, method: str, /, **values: Any) -> Iterator[Any]:
        """Make a gRPC call that etcd answers with a stream. Yield each message of the stream."""
        stream = self._wait(self._open, method, values)
        try:
            while messages := self._wait(self._receive, stream):
                yield from messages
        except BaseException:
            self.close()  # also ends the stream
            raise

    def _wait(self, work: Callable[..., Coroutine[Any, Any, Any]], *words: Any) -> Any:
        """Call `work` on the event loop and return its result. Raise NoAnswerError or RefusedError if it fails."""
        grpclib = _grpclib()
        future = asyncio.run_coroutine_threadsafe(work(*words), _loop())
        try:
            return future.result()
        except grpclib.GRPCError as error:
            raise self._refusal(error.status.value, error.message or "") from error
        except TimeoutError as error:
            raise self._failure("no answer in time") from error
        except (OSError, grpclib.StreamTerminatedError, grpclib.ProtocolError) as error:
            raise self._failure(self._obstacle()) from error
        except (grpclib.api.DecodeError, AssertionError, NotImplementedError) as error:
            # grpclib raises AssertionError for a message that is cut, and NotImplementedError for a compressed message.
            raise self._failure(_NOT_ETCD) from error
        except BaseException:
            future.cancel()
            raise

    async def _ask(self, name: str, values: Mapping[str, Any], seconds: float) -> Any:
        kinds = await self._connect(name)
        method = _grpclib().UnaryUnaryMethod(self._channel, *kinds)
        return await asyncio.wait_for(method(kinds[1](**values)), seconds)

    async def _open(self, name: str, values: Mapping[str, Any]) -> Any:
        kinds = await self._connect(name)
        stream = _grpclib().UnaryStreamMethod(self._channel, *kinds).open()
        await stream.__aenter__()
        await stream.send_message(kinds[1](**values), end=True)
        return stream

    async def _connect(self, name: str) -> tuple[str, Any, Any]:
        """Connect. Return the path of a call, the class of its request, and the class of its response."""
        api = _grpclib().api
        await asyncio.wait_for(self._channel.__connect__(), self.timeout[0])
        return f"/{api.PACKAGE}.{name}", *(api.message(f"{api.stem(name)}{kind}") for kind in ("Request", "Response"))

    async def _receive(self, stream: Any) -> list[Any]:
        """Return the next messages of a stream, or [] at the end of a complete stream."""
        messages: list[Any] = []
        while len(messages) < _BATCH:
            message = await asyncio.wait_for(stream.recv_message(), self.timeout[1])
            if message is None:
                if not messages:
                    await asyncio.wait_for(stream.__aexit__(None, None, None), self.timeout[1])
                break
            messages.append(message)
        return messages

    def _failure(self, cause: str) -> NoAnswerError:
        self.close()
        return NoAnswerError(self.endpoint, cause)

    def _refusal(self, status: int, message: str) -> EtcdError:
        if message.startswith(_ETCD_PREFIXES):
            return RefusedError(self.endpoint, message, status=status)
        return self._failure(f"{_NOT_ETCD} ({message})")

    @cached_property
    def _channel(self) -> Any:
        """The gRPC channel. The first request opens the connection."""
        url, context = urlsplit(self.endpoint), self._context()
        if context:
            context.set_alpn_protocols(["h2"])
        host, port = url.hostname or "", url.port or 0
        if path := forwarded(host, port):  # the certificate has the node's address, not the path of the socket
            config = _grpclib().Configuration(ssl_target_name_override=host)
            return _grpclib().Channel(path=str(path), ssl=context, config=config)
        return _grpclib().Channel(host, port, ssl=context)

    def _context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None if the endpoint is an http URL."""
        try:
            return operator_context(self.files) if self.endpoint.startswith("https") else None
        except InputError as error:
            text = error.problems[0]
            raise EtcdError(self.endpoint, f"{text.where}: {text.message}", hint=text.hint) from error

    def _obstacle(self) -> str:
        """Return why the connection failed. Probe the port again, because grpclib hides TLS 1.3 alerts."""
        url = urlsplit(self.endpoint)
        found = probe(url.hostname or "", url.port or 0, self._context(), timeout=self.timeout[0])
        is_open = found.reply is Reply.SERVED or (url.scheme == "http" and found.reply is Reply.REFUSED)
        return "the connection was closed" if is_open else found.detail


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else EVERY_KEY


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that all connections share.

    The loop has its own thread.
    """
    with _ONE_LOOP:  # several threads can call `_loop` at the same time
        return _make_loop()


_ONE_LOOP = threading.Lock()


@cache
def _make_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="etcd").start()
    return loop


@cache
def _grpclib() -> SimpleNamespace:
    """Import grpclib and protobuf only for a gRPC call, so that `bake --help` works without these packages."""
    try:
        from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
        from grpclib.config import Configuration
        from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

        from generator.etcd import messages
    except ImportError as error:
        hint = "run scripts/setup vm, or in the source folder: pip install '.[vm]'"
        raise BakeError(f"the Python package {error.name} is missing", hint=hint) from error
    return SimpleNamespace(
        Channel=Channel, UnaryStreamMethod=UnaryStreamMethod, UnaryUnaryMethod=UnaryUnaryMethod, GRPCError=GRPCError,
        ProtocolError=ProtocolError, StreamTerminatedError=StreamTerminatedError, Configuration=Configuration,
        api=messages,
    )  # fmt: skip
