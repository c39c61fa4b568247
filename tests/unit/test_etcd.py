"""The etcd client: what is asked of etcd, and what becomes of an answer, also of one that is none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generator.host import etcd
from generator.host.etcd import Etcd, EtcdError, NoAnswerError, RefusedError
from generator.host.etcd_api import CALLS
from generator.host.protobuf import Field, Kind, encode
from generator.host.tls import ClientFiles
from tests.unit.grpc_server import GrpcServer, Reply, good, refusal

FILES = ClientFiles(ca=Path("/dev/null"), cert=Path("/dev/null"), key=Path("/dev/null"))
Serve = Callable[[Reply], Etcd]
Asked = list[tuple[str, bytes]]


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a message; a message in it is given as bytes."""
    kind = Kind.UNSIGNED if isinstance(value, int) else Kind.BYTES
    return encode({"it": Field(number, kind)}, {"it": value.encode() if isinstance(value, str) else value})


HEADER = field(1, field(1, 10574110745492340318) + field(2, 5454913657921721959) + field(3, 9) + field(4, 2))


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
def serve(asked: Asked) -> Iterator[Serve]:
    """An etcd in the clear that always gives one answer."""
    made: list[tuple[GrpcServer, Etcd]] = []

    def start(reply: Reply) -> Etcd:
        def note(path: str, message: bytes) -> Reply:
            asked.append((path, message))
            return reply

        server = GrpcServer(note)
        made.append((server, Etcd(f"http://127.0.0.1:{server.port}", FILES, timeout=(1, 1))))
        return made[-1][1]

    yield start
    for server, client in made:
        client.close()
        server.stop()


def test_members_keep_every_digit_and_one_without_a_name_has_not_started(serve: Serve) -> None:
    first = field(1, 2**64 - 1) + field(2, "etcd1") + field(3, "https://192.0.2.1:2380") + field(4, "https://x:1")
    second = field(1, 7) + field(3, "https://192.0.2.2:2380") + field(3, "https://[2001:db8::2]:2380") + field(5, 1)
    one, two = serve(good(HEADER + field(2, first) + field(2, second))).members()
    assert (one.id, one.name, one.peer_urls, one.client_urls) == (
        2**64 - 1, "etcd1", ("https://192.0.2.1:2380",), ("https://x:1",),
    )  # fmt: skip
    assert (one.started, one.is_learner) == (True, False)
    assert (two.started, two.is_learner, two.client_urls) == (False, True, ())
    assert two.peer_urls == ("https://192.0.2.2:2380", "https://[2001:db8::2]:2380")


def test_members_are_asked_of_the_leader(serve: Serve, asked: Asked) -> None:
    assert serve(good(HEADER)).members() == ()
    assert asked == [("/etcdserverpb.Cluster/MemberList", b"\x08\x01")]


def test_a_status(serve: Serve) -> None:
    said = field(2, "3.5.16") + field(3, 24576) + field(4, 9829697949003368379) + field(5, 15) + field(6, 2)
    status = serve(good(HEADER + said + field(9, 16384))).status()
    assert (status.cluster_id, status.member_id) == (10574110745492340318, 5454913657921721959)
    assert (status.leader, status.raft_term, status.raft_index) == (9829697949003368379, 2, 15)
    assert (status.revision, status.db_size, status.version) == (9, 24576, "3.5.16")
    assert (status.is_learner, status.errors) == (False, ())


def test_a_status_of_a_learner_of_3_6_without_a_leader(serve: Serve) -> None:
    more = field(11, "3.6.0") + field(12, 2147483648) + field(13, b"")
    status = serve(good(HEADER + field(2, "3.6.0") + field(8, "etcdserver: no leader") + field(10, 1) + more)).status()
    assert (status.leader, status.errors) == (0, ("etcdserver: no leader",))
    assert (status.version, status.is_learner) == ("3.6.0", True)


def test_alarms_have_names(serve: Serve) -> None:
    raised = field(2, field(1, 7) + field(2, 1)) + field(2, field(1, 8) + field(2, 2))
    assert [(one.member_id, one.kind) for one in serve(good(HEADER + raised)).alarms()] == [
        (7, "NOSPACE"), (8, "CORRUPT"),
    ]  # fmt: skip


def test_whether_auth_is_on(serve: Serve, asked: Asked) -> None:
    assert serve(good(HEADER + field(2, 1) + field(3, 7))).auth_enabled() is True
    assert serve(good(HEADER)).auth_enabled() is False
    assert asked == [question("Auth/AuthStatus")] * 2


def test_keys_and_values_are_bytes_and_an_empty_value_is_left_out(serve: Serve) -> None:
    kvs = field(2, field(1, b"/a\xff") + field(5, b"1")) + field(2, field(1, b"/b") + field(4, 1))
    keys = serve(good(HEADER + kvs + field(4, 5))).get(b"/", prefix=True)
    assert (keys.count, keys.revision) == (5, 9)
    assert [(item.key, item.value) for item in keys.items] == [(b"/a\xff", b"1"), (b"/b", b"")]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"a\xfe", b"a\xff")],
)
def test_a_prefix_ends_just_behind_its_last_key(prefix: bytes, end: bytes) -> None:
    assert etcd.prefix_end(prefix) == end


def question(name: str, **values: object) -> tuple[str, bytes]:
    return f"/etcdserverpb.{name}", encode(CALLS[name][0], values)


def test_an_empty_prefix_reads_the_whole_keyspace(serve: Serve, asked: Asked) -> None:
    assert serve(good(HEADER)).get(b"", prefix=True, keys_only=True, limit=9).count == 0
    assert asked == [question("KV/Range", key=b"\0", range_end=b"\0", limit=9, keys_only=True)]


def test_an_empty_prefix_is_never_deleted(serve: Serve, asked: Asked) -> None:
    with pytest.raises(ValueError, match="whole keyspace"):
        serve(good(HEADER)).delete(b"", prefix=True)
    assert not asked


def test_deleting_a_prefix_says_how_many_keys_it_had(serve: Serve, asked: Asked) -> None:
    assert serve(good(HEADER + field(2, 3))).delete(b"/a/", prefix=True) == 3
    assert asked == [question("KV/DeleteRange", key=b"/a/", range_end=b"/a0")]


def test_a_key_hangs_on_a_lease(serve: Serve, asked: Asked) -> None:
    client = serve(good(HEADER + field(2, 77)))
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
    ("code", "said", "cause"),
    [
        (14, "etcdserver%3A request timed out", "etcdserver: request timed out"),
        (7, "etcdserver: permission denied", "etcdserver: permission denied"),
        (13, "", "gRPC status 13"),
    ],
)
def test_a_refusal_carries_endpoint_and_cause(serve: Serve, code: int, said: str, cause: str) -> None:
    client = serve(refusal(code, said))
    with pytest.raises(RefusedError) as caught:
        client.status()
    assert (caught.value.endpoint, caught.value.cause, caught.value.status) == (client.endpoint, cause, code)
    assert str(caught.value) == f"{client.endpoint}: {cause}"


@pytest.mark.parametrize(
    "reply",
    [
        good(b""),  # no header in it
        good(b"nonsense"),
        good(field(1, 7)),
        good(HEADER + field(2, b"\xc3\x28")),  # no text
        ([(":status", "502")], b"<html>", []),
    ],
)
def test_an_answer_that_is_not_etcds_is_an_error(serve: Serve, reply: Reply) -> None:
    with pytest.raises(NoAnswerError, match="not etcd's"):
        serve(reply).status()


def test_an_alarm_that_nobody_knows_is_an_error(serve: Serve) -> None:
    with pytest.raises(NoAnswerError, match="not etcd's"):
        serve(good(HEADER + field(2, field(1, 7) + field(2, 3)))).alarms()


def test_nobody_at_the_port_is_named_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NoAnswerError, match="connection refused"):
        Etcd(f"http://127.0.0.1:{port}", FILES).status()


def test_silence_is_named_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Etcd(f"http://127.0.0.1:{server.getsockname()[1]}", FILES, timeout=(0.2, 0.2))
        with client, pytest.raises(NoAnswerError, match="no answer in time"):
            client.status()


def test_a_missing_certificate_file_names_the_file(tmp_path: Path) -> None:
    files = ClientFiles(ca=tmp_path / "ca.pem", cert=tmp_path / "c.pem", key=tmp_path / "c.key")
    with pytest.raises(EtcdError, match=r"ca\.pem"):
        Etcd("https://127.0.0.1:1", files).status()


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match=r"/dev/null.*cannot be used"):
        Etcd("https://127.0.0.1:1", FILES).status()


def test_the_environment_has_no_say(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert serve(good(HEADER)).alarms() == ()


def test_an_ipv6_address_is_in_brackets() -> None:
    server = GrpcServer(lambda *_: good(HEADER), "::1")
    with Etcd(f"http://[::1]:{server.port}", FILES) as client:
        assert client.alarms() == ()
    assert server.authorities == {f"[::1]:{server.port}"}
    server.stop()
