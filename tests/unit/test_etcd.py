"""The etcd client: what the gateway answers, and what becomes of an answer that is none."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from generator.host import etcd
from generator.host.etcd import Etcd, EtcdError, NoAnswerError, RefusedError
from generator.host.tls import ClientFiles

HEADER = {"cluster_id": "10574110745492340318", "member_id": "5454913657921721959", "raft_term": "2"}
FILES = ClientFiles(ca=Path("/dev/null"), cert=Path("/dev/null"), key=Path("/dev/null"))
Serve = Callable[[int, bytes], Etcd]


class _Handler(BaseHTTPRequestHandler):
    answer = (200, b"{}")
    asked: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, json.loads(body)))
        status, data = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def serve(asked: list[tuple[str, Any]]) -> Iterator[Serve]:
    """A gateway in the clear that always gives one answer: TLS is for the tests with real etcd."""
    servers: list[HTTPServer] = []
    clients: list[Etcd] = []

    def start(status: int, answer: bytes) -> Etcd:
        handler = type("Handler", (_Handler,), {"answer": (status, answer), "asked": asked})
        server = HTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        clients.append(Etcd(f"http://127.0.0.1:{server.server_port}", FILES, timeout=(1, 1)))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in servers:
        server.shutdown()
        server.server_close()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_64_bit_numbers_arrive_as_strings_and_keep_every_digit() -> None:
    answer = {"ID": "18446744073709551615", "name": "etcd1", "peerURLs": ["https://192.0.2.1:2380"]}
    member = etcd.parse_member(answer)
    assert member.id == 2**64 - 1
    assert (member.peer_urls, member.client_urls) == (("https://192.0.2.1:2380",), ())


def test_a_member_without_a_name_has_not_started() -> None:
    member = etcd.parse_member({"ID": "7", "peerURLs": ["https://192.0.2.1:2380"], "isLearner": True})
    assert (member.started, member.is_learner) == (False, True)
    assert etcd.parse_member({"ID": "7", "name": "etcd1"}).started


def test_a_status_of_3_5() -> None:
    status = etcd.parse_status(
        {
            "header": HEADER | {"revision": "3"}, "version": "3.5.16", "dbSize": "24576",
            "leader": "9829697949003368379", "raftIndex": "15", "raftTerm": "2", "dbSizeInUse": "16384",
        }
    )  # fmt: skip
    assert (status.cluster_id, status.member_id) == (10574110745492340318, 5454913657921721959)
    assert (status.leader, status.raft_term, status.raft_index) == (9829697949003368379, 2, 15)
    assert (status.revision, status.db_size, status.version) == (3, 24576, "3.5.16")
    assert (status.is_learner, status.errors) == (False, ())


def test_a_status_of_3_6_says_more_and_is_read_all_the_same() -> None:
    more = {"storageVersion": "3.6.0", "dbSizeQuota": "2147483648", "downgradeInfo": {}}
    status = etcd.parse_status({"header": HEADER, "version": "3.6.0", "isLearner": True} | more)
    assert (status.version, status.is_learner) == ("3.6.0", True)


def test_what_is_unset_is_left_out_of_a_status_without_a_leader() -> None:
    status = etcd.parse_status({"header": HEADER, "version": "3.5.16", "errors": ["etcdserver: no leader"]})
    assert (status.leader, status.revision, status.errors) == (0, 0, ("etcdserver: no leader",))


def test_keys_and_values_are_base64_and_an_empty_value_is_left_out() -> None:
    kvs = [{"key": encoded(b"/a\xff"), "value": encoded(b"1")}, {"key": encoded(b"/b"), "version": "1"}]
    keys = etcd.parse_keys({"header": HEADER | {"revision": "9"}, "kvs": kvs, "count": "5"})
    assert (keys.count, keys.revision) == (5, 9)
    assert [(item.key, item.value) for item in keys.items] == [(b"/a\xff", b"1"), (b"/b", b"")]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"a\xfe", b"a\xff")],
)
def test_a_prefix_ends_just_behind_its_last_key(prefix: bytes, end: bytes) -> None:
    assert etcd.prefix_end(prefix) == end


def test_an_empty_prefix_reads_the_whole_keyspace(serve: Serve, asked: list[tuple[str, Any]]) -> None:
    answer = {"header": HEADER | {"revision": "1"}}
    assert serve(200, json.dumps(answer).encode()).get(b"", prefix=True, keys_only=True, limit=9).count == 0
    path, body = asked[0]
    assert path == "/v3/kv/range"
    assert body == {"key": "AA==", "range_end": "AA==", "keys_only": True, "limit": "9"}


def test_an_empty_prefix_is_never_deleted(serve: Serve, asked: list[tuple[str, Any]]) -> None:
    with pytest.raises(ValueError, match="whole keyspace"):
        serve(200, b"{}").delete(b"", prefix=True)
    assert not asked


def test_deleting_a_prefix_says_how_many_keys_it_had(serve: Serve, asked: list[tuple[str, Any]]) -> None:
    assert serve(200, b'{"deleted": "3"}').delete(b"/a/", prefix=True) == 3
    assert asked == [("/v3/kv/deleterange", {"key": encoded(b"/a/"), "range_end": encoded(b"/a0")})]


@pytest.mark.parametrize(
    ("status", "answer", "cause"),
    [
        (503, b'{"code":14, "message":"etcdserver: request timed out"}', "etcdserver: request timed out"),
        (400, b'{"error":"etcdserver: user name is empty"}', "etcdserver: user name is empty"),
        (401, b"", "HTTP status 401"),
        (502, b"<html>", "HTTP status 502"),
        (302, b"{}", "HTTP status 302"),
    ],
)
def test_a_refusal_carries_endpoint_and_cause(serve: Serve, status: int, answer: bytes, cause: str) -> None:
    client = serve(status, answer)
    with pytest.raises(RefusedError) as caught:
        client.status()
    assert (caught.value.endpoint, caught.value.cause, caught.value.status) == (
        client.endpoint,
        cause,
        status,
    )
    assert str(caught.value) == f"{client.endpoint}: {cause}"


@pytest.mark.parametrize("answer", [b"", b"[]", b"nonsense", b'{"header": {}}', b'{"header": 1}'])
def test_an_answer_that_is_not_etcds_is_an_error(serve: Serve, answer: bytes) -> None:
    with pytest.raises(NoAnswerError, match=r"an empty answer|not etcd's"):
        serve(200, answer).status()


def test_a_member_list_of_something_else_is_an_error(serve: Serve) -> None:
    with pytest.raises(NoAnswerError, match="not etcd's"):
        serve(200, b'{"members": ["etcd1"]}').members()


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


def test_the_environment_has_no_say(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert serve(200, b"{}").alarms() == ()
