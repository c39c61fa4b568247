"""The etcd client: its requests to etcd, and how it handles valid and invalid answers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest
from grpc import StatusCode

from generator.etcd import client as grpc_client
from generator.etcd.client import Etcd, EtcdError, NoAnswerError, RefusedError
from generator.etcd.messages import message
from generator.etcd.tls_probe import ClientFiles
from tests.unit.grpc_server import GrpcServer, Reply

FILES = ClientFiles(ca=Path("/dev/null"), cert=Path("/dev/null"), key=Path("/dev/null"))
Serve = Callable[[Reply], Etcd]
Asked = list[tuple[str, bytes]]


HEADER = {"cluster_id": 10574110745492340318, "member_id": 5454913657921721959, "revision": 9, "raft_term": 2}


def good(name: str, **values: object) -> bytes:
    """Return a message like those of etcd."""
    return bytes(message(f"{name}Response")(header=HEADER, **values).SerializeToString())


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
def serve(asked: Asked) -> Iterator[Serve]:
    """Start a server without TLS that gives the same answer to every request."""
    made: list[tuple[GrpcServer, Etcd]] = []

    def start(reply: Reply) -> Etcd:
        def note(path: str, question: bytes) -> Reply:
            asked.append((path, question))
            return reply

        server = GrpcServer(note)
        made.append((server, Etcd(f"http://127.0.0.1:{server.port}", FILES, timeout=(60, 60))))
        return made[-1][1]

    yield start
    for server, client in made:
        client.close()
        server.stop()


def test_member_ids_keep_every_digit_and_a_member_without_a_name_has_not_started(serve: Serve) -> None:
    first = {"ID": 2**64 - 1, "name": "etcd1", "peerURLs": ["https://192.0.2.1:2380"], "clientURLs": ["https://x:1"]}
    urls = ["https://192.0.2.2:2380", "https://[2001:db8::2]:2380"]
    second = {"ID": 7, "peerURLs": urls, "isLearner": True}
    one, two = serve(good("MemberList", members=[first, second])).members()
    assert (one.id, one.name, one.peer_urls, one.client_urls) == (
        2**64 - 1, "etcd1", ("https://192.0.2.1:2380",), ("https://x:1",),
    )  # fmt: skip
    assert (one.started, one.is_learner) == (True, False)
    assert (two.started, two.is_learner, two.client_urls) == (False, True, ())
    assert two.peer_urls == ("https://192.0.2.2:2380", "https://[2001:db8::2]:2380")


def test_the_member_list_is_a_linearizable_read(serve: Serve, asked: Asked) -> None:
    assert serve(good("MemberList")).members() == ()
    assert asked == [("/etcdserverpb.Cluster/MemberList", b"\x08\x01")]


def test_a_status(serve: Serve) -> None:
    numbers = {"dbSize": 24576, "leader": 9829697949003368379, "raftIndex": 15, "raftTerm": 2}
    status = serve(good("Status", version="3.5.16", **numbers)).status()
    assert (status.cluster_id, status.member_id) == (10574110745492340318, 5454913657921721959)
    assert (status.leader, status.raft_term, status.raft_index) == (9829697949003368379, 2, 15)
    assert (status.revision, status.db_size, status.version) == (9, 24576, "3.5.16")
    assert (status.is_learner, status.errors) == (False, ())


def test_a_status_of_a_learner_of_3_6_without_a_leader(serve: Serve) -> None:
    more = bytes.fromhex("5a05332e362e30" "6080808080 08".replace(" ", ""))  # fields 11 and 12, which are new in 3.6
    said = good("Status", version="3.6.0", errors=["etcdserver: no leader"], isLearner=True)
    status = serve(said + more).status()
    assert (status.leader, status.errors) == (0, ("etcdserver: no leader",))
    assert (status.version, status.is_learner) == ("3.6.0", True)


def test_alarms_have_names_and_a_fixed_order(serve: Serve) -> None:
    """etcd sends its alarms in random order, because it keeps them in a Go map (server/etcdserver/api/v3alarm)."""
    raised = [{"memberID": 7, "alarm": 1}, {"memberID": 7, "alarm": 2}, {"memberID": 8, "alarm": 2}]
    for order in permutations(raised):
        found = serve(good("Alarm", alarms=list(order))).alarms()
        assert [(one.member_id, one.kind) for one in found] == [(7, "NOSPACE"), (7, "CORRUPT"), (8, "CORRUPT")]


def test_auth_enabled_returns_whether_auth_is_on(serve: Serve, asked: Asked) -> None:
    assert serve(good("AuthStatus", enabled=True)).auth_enabled() is True
    assert serve(good("AuthStatus")).auth_enabled() is False
    assert asked == [question("Auth/AuthStatus")] * 2


def test_keys_and_values_are_bytes_and_a_value_may_be_empty(serve: Serve) -> None:
    kvs = [{"key": b"/a\xff", "value": b"1"}, {"key": b"/b"}]
    keys = serve(good("Range", kvs=kvs, count=5)).get(b"/", prefix=True)
    assert (keys.count, keys.revision) == (5, 9)
    assert [(item.key, item.value) for item in keys.items] == [(b"/a\xff", b"1"), (b"/b", b"")]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"a\xfe", b"a\xff")],
)
def test_the_end_of_a_prefix_is_the_first_key_after_it(prefix: bytes, end: bytes) -> None:
    assert grpc_client.prefix_end(prefix) == end


def question(name: str, **values: object) -> tuple[str, bytes]:
    verb = name.partition("/")[2]
    return f"/etcdserverpb.{name}", bytes(message(f"{verb}Request")(**values).SerializeToString())


def test_an_empty_prefix_reads_the_whole_keyspace(serve: Serve, asked: Asked) -> None:
    assert serve(good("Range")).get(b"", prefix=True, keys_only=True, limit=9).count == 0
    assert asked == [question("KV/Range", key=b"\0", range_end=b"\0", limit=9, keys_only=True)]


def test_an_empty_prefix_is_never_deleted(serve: Serve, asked: Asked) -> None:
    with pytest.raises(ValueError, match="whole keyspace"):
        serve(good("DeleteRange")).delete(b"", prefix=True)
    assert not asked


def test_deleting_a_prefix_returns_the_number_of_deleted_keys(serve: Serve, asked: Asked) -> None:
    assert serve(good("DeleteRange", deleted=3)).delete(b"/a/", prefix=True) == 3
    assert asked == [question("KV/DeleteRange", key=b"/a/", range_end=b"/a0")]


def test_a_key_can_have_a_lease(serve: Serve, asked: Asked) -> None:
    client = serve(good("LeaseGrant", ID=77))
    lease = client.grant_lease(60)
    client.put(b"k", b"v", lease=lease)
    client.revoke_lease(lease)
    assert lease == 77
    assert asked == [
        question("Lease/LeaseGrant", TTL=60),
        question("KV/Put", key=b"k", value=b"v", lease=77),
        question("Lease/LeaseRevoke", ID=77),
    ]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
        (StatusCode.UNKNOWN, "raft proposal dropped"),  # during a transfer of the leadership
    ],
)
def test_a_refusal_contains_the_endpoint_and_the_cause(serve: Serve, code: StatusCode, cause: str) -> None:
    client = serve((code, cause))
    with pytest.raises(RefusedError) as caught:
        client.status()
    assert (caught.value.endpoint, caught.value.cause, caught.value.status) == (client.endpoint, cause, code.value[0])
    assert str(caught.value) == f"{client.endpoint}: {cause}"


@pytest.mark.parametrize(
    "reply",
    [
        b"",  # an answer without a header
        b"nonsense",
        good("Status") + bytes.fromhex("1202c328"),  # a version that is not valid text
        (StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.Maintenance"),
    ],
)
def test_an_answer_from_another_server_is_an_error(serve: Serve, reply: Reply) -> None:
    with pytest.raises(NoAnswerError, match="not from etcd"):
        serve(reply).status()


def test_an_unknown_alarm_is_an_error(serve: Serve) -> None:
    with pytest.raises(NoAnswerError, match="not from etcd"):
        serve(good("Alarm", alarms=[{"memberID": 7, "alarm": 3}])).alarms()


def test_a_closed_port_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NoAnswerError, match="connection refused"):
        Etcd(f"http://127.0.0.1:{port}", FILES).status()


def test_a_timeout_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Etcd(f"http://127.0.0.1:{server.getsockname()[1]}", FILES, timeout=(0.2, 0.2))
        with client, pytest.raises(NoAnswerError, match="no answer in time"):
            client.status()


def test_a_missing_certificate_file_names_the_file(tmp_path: Path) -> None:
    files = ClientFiles(ca=tmp_path / "ca.pem", cert=tmp_path / "c.pem", key=tmp_path / "c.key")
    with pytest.raises(EtcdError, match=r"ca\.pem"):
        Etcd("https://127.0.0.1:1", files).status()


def test_files_without_certificates_are_named(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match=r"/dev/null.*cannot be used"):
        Etcd("https://127.0.0.1:1", FILES).status()


def test_proxy_variables_are_ignored(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert serve(good("Alarm")).alarms() == ()


def test_an_ipv6_address_is_in_brackets() -> None:
    server = GrpcServer(lambda *_: good("Alarm"), "[::1]")
    with Etcd(f"http://[::1]:{server.port}", FILES) as client:
        assert client.alarms() == ()
    server.stop()


def test_first_calls_at_the_same_time_share_one_event_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two calls made separate event loops, one caller would get no answer until the timeout."""
    grpc_client._make_loop.cache_clear()
    make = asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: (time.sleep(0.1), make())[1])
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: grpc_client._loop(), range(8)))) == 1
    assert serve(good("Alarm")).alarms() == ()
