"""What nodes ask each other: reports of empty disks, a member's connections, and whether a learner is joining."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.assembly.miniature import GUEST, Miniature, Node, Tools, bake_miniature

sys.path.insert(0, str(GUEST))

import peers
from join_decision import Member, Planned

sys.path.pop(0)

PERMIT = "etcd-0123"
_numbers = count(1)


@pytest.fixture
def cluster(tmp_path: Path) -> Miniature:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return bake_miniature(tmp_path, f"127.{180 + worker}.{next(_numbers)}.0/24", 3, Tools(bin_dir=tmp_path))


@pytest.fixture
def act_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Node], None]:
    """Return a function that gives this process the settings and certificates of a node."""

    def act(node: Node) -> None:
        for name, value in node.environment().items():
            monkeypatch.setenv(name, value)

    return act


def planned(node: Node) -> Planned:
    return Planned(node.plan.name, node.plan.peer_url, node.plan.client_url)


class Server:
    """A server at the address and with the certificate of a node. It sends each text to one client, and the last text
    to all others.
    """

    def __init__(self, at: str, tls: ssl.SSLContext, *bodies: str, status: str = "200 OK") -> None:
        self.answers = [f"HTTP/1.0 {status}\r\n\r\n{body}".encode() for body in bodies]
        self.tls, self.listener = tls, socket.create_server(peers.address_of(at))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            with plain, suppress(OSError), self.tls.wrap_socket(plain, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(self.answers[0])
                del self.answers[: len(self.answers) > 1]

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def serve(act_as: Callable[[Node], None]) -> Iterator[Callable[..., Server]]:
    """Return `serve(url, node, *bodies)`, which starts a server at a URL with the certificates of a node."""
    servers: list[Server] = []

    def start(url: str, node: Node, *bodies: str, status: str = "200 OK", kind: str = "ETCD_PEER") -> Server:
        act_as(node)
        if kind == "ETCD":  # the client port of etcd
            pki = node.root / "etc/etcd/pki"
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(pki / "etcd-server.pem", pki / "etcd-server.key")
        else:
            tls = peers.context(kind, server=True)
        servers.append(Server(url, tls, *bodies, status=status))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(url: str, tls: ssl.SSLContext) -> str:
    """Return the answer of the URL to a client with these certificates, or "" if it is refused. Wait for the port."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return peers.get(url, peers.EMPTY_PATH, tls)
        except ConnectionRefusedError:
            time.sleep(0.05)
        except OSError:
            return ""
    raise AssertionError(f"nothing listens at {url}")


def eventually(look: Callable[[], object], expected: object) -> None:
    """Retry until the answer is as expected: on a busy machine, a handshake may take longer than its two seconds."""
    deadline = time.monotonic() + 30
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == expected


def complaint(url: str, tls: ssl.SSLContext, path: str = peers.EMPTY_PATH) -> str:
    try:
        peers.get(url, path, tls)
    except OSError as error:
        return str(error)
    return ""


# ── which clients get an answer ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def empty_node(cluster: Miniature, act_as: Callable[[Node], None]) -> Node:
    """Node etcd2, which reports that its disk is empty."""
    node = cluster.nodes[1]
    act_as(node)
    peers.EmptyDiskServer(planned(node), PERMIT).start()
    return node


def test_a_peer_receives_the_report_of_an_empty_disk(
    cluster: Miniature, empty_node: Node, act_as: Callable[[Node], None]
) -> None:
    act_as(cluster.nodes[0])
    eventually(lambda: ask(empty_node.plan.peer_url, peers.context("ETCD_PEER")), f"etcd2 {PERMIT}\n")


def test_other_paths_are_not_found(
    cluster: Miniature, empty_node: Node, act_as: Callable[[Node], None]
) -> None:
    act_as(cluster.nodes[0])
    tls = peers.context("ETCD_PEER")
    eventually(lambda: ask(empty_node.plan.peer_url, tls) != "", True)
    eventually(lambda: complaint(empty_node.plan.peer_url, tls, "/"), "the status is not 200")


def test_a_client_without_a_certificate_is_refused(
    cluster: Miniature, empty_node: Node, act_as: Callable[[Node], None]
) -> None:
    bare = ssl.create_default_context(cafile=str(cluster.nodes[0].root / "etc/etcd/pki/etcd-ca.pem"))
    assert ask(empty_node.plan.peer_url, bare) == ""
    act_as(cluster.nodes[0])
    eventually(lambda: bool(ask(empty_node.plan.peer_url, peers.context("ETCD_PEER"))), True)


def test_a_client_of_another_ca_is_refused(
    cluster: Miniature, empty_node: Node, act_as: Callable[[Node], None], tmp_path: Path
) -> None:
    foreign = bake_miniature(tmp_path / "foreign", "127.179.1.0/24", 1, Tools(bin_dir=tmp_path)).nodes[0]
    act_as(foreign)
    stranger = peers.context("ETCD_PEER")
    stranger.load_verify_locations(cluster.nodes[0].root / "etc/etcd/pki/etcd-ca.pem")
    assert ask(empty_node.plan.peer_url, stranger) == ""


def test_a_silent_client_is_disconnected(
    cluster: Miniature, empty_node: Node, act_as: Callable[[Node], None]
) -> None:
    """Each client has a thread, and the node may wait for days."""
    act_as(cluster.nodes[0])
    eventually(lambda: ask(empty_node.plan.peer_url, peers.context("ETCD_PEER")) != "", True)
    with socket.create_connection(peers.address_of(empty_node.plan.peer_url)) as silent, suppress(ConnectionResetError):
        silent.settimeout(60)
        assert silent.recv(1) == b""


# ── which reports count ─────────────────────────────────────────────────────────────────────────────────────


def test_the_report_of_an_empty_disk_is_used(
    cluster: Miniature, serve: Callable[..., Server], act_as: Callable[[Node], None]
) -> None:
    first, second, third = cluster.nodes
    serve(second.plan.peer_url, second, f"etcd2 {PERMIT}\n")
    act_as(first)
    eventually(lambda: peers.empty([planned(second), planned(third)], PERMIT), [planned(second)])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (f"etcd3 {PERMIT}\n", "200 OK"),  # the name of another node, with the certificate of etcd2
        ("etcd2 prod-0123\n", "200 OK"),  # the id of another cluster
        ("etcd2 \n", "200 OK"),
        ("", "200 OK"),
        (f"etcd2 {PERMIT}\n", "404 Not Found"),
    ],
)
def test_the_report_of_another_node_or_cluster_does_not_count(
    cluster: Miniature, serve: Callable[..., Server], act_as: Callable[[Node], None], body: str, status: str
) -> None:
    first, second, _ = cluster.nodes
    serve(second.plan.peer_url, second, body, status=status)
    act_as(first)
    assert peers.empty([planned(second)], PERMIT) == []


def test_the_certificate_must_contain_the_queried_address(
    cluster: Miniature, serve: Callable[..., Server], act_as: Callable[[Node], None]
) -> None:
    first, second, third = cluster.nodes
    serve(second.plan.peer_url, third, f"etcd2 {PERMIT}\n")
    act_as(first)
    assert peers.empty([planned(second)], PERMIT) == []
    eventually(
        lambda: "IP address mismatch" in complaint(second.plan.peer_url, peers.context("ETCD_PEER")), True
    )


# ── "that member is connected" ──────────────────────────────────────────────────────────────────────

UP = 'etcd_network_active_peers{Local="a1",Remote="b2"} 1\n'
DOWN = 'etcd_network_active_peers{Local="a1",Remote="b2"} 0\n'
OTHER = 'etcd_network_active_peers{Local="a1",Remote="c3"} 1\netcd_network_peer_sent_bytes_total{To="b2"} 7\n'


def member(node: Node, number: str) -> Member:
    return Member(number, node.plan.name, (node.plan.peer_url,), (node.plan.client_url,), is_learner=False)


@pytest.mark.parametrize(
    ("first", "third", "expected"),
    [
        (UP, None, True),
        (DOWN + UP, None, True),
        (DOWN, UP, True),
        (DOWN, None, False),
        (OTHER, None, False),
        ("", None, False),
        (DOWN, OTHER, False),
        (None, None, True),  # no voter answers
    ],
)
def test_a_member_is_connected_if_a_voter_reports_a_connection(
    cluster: Miniature,
    serve: Callable[..., Server],
    act_as: Callable[[Node], None],
    first: str | None,
    third: str | None,
    expected: bool,
) -> None:
    nodes = cluster.nodes
    for node, metrics in ((nodes[0], first), (nodes[2], third)):
        if metrics is not None:
            serve(node.plan.client_url, node, metrics, kind="ETCD")
    act_as(nodes[1])
    voters = [member(nodes[0], "a1"), member(nodes[2], "c3")]
    eventually(lambda: peers.is_connected(voters, member(nodes[1], "b2")), expected)


# ── "a learner is joining" ──────────────────────────────────────────────────────────────────────

VOTER = {"id": 0xA1, "name": "etcd1", "peerURLs": ["https://a"]}
LEARNER = {"id": 0xB2, "peerURLs": ["https://b"], "isLearner": True}
LEARNING, DONE = json.dumps([VOTER, LEARNER]), json.dumps([VOTER])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that wait_for_learner makes, each without waiting. Its time limit never ends."""
    made: list[float] = []
    monkeypatch.setattr(peers, "time", type("Time", (), {"sleep": made.append, "monotonic": lambda: 0.0}))
    monkeypatch.setattr(peers, "CONNECT_SECONDS", 30.0)
    return made


@pytest.mark.parametrize(
    ("first", "third", "expected"),
    [
        ([LEARNING, LEARNING, LEARNING, DONE], [DONE], 3),
        ([DONE], [LEARNING, LEARNING, DONE], 2),  # a voter that is behind may already or still have another list
        ([], [LEARNING, DONE], 1),
        ([], [], 0),
        (["[7]"], ["{"], 0),
    ],
)
def test_a_node_waits_while_a_voter_lists_a_learner(
    cluster: Miniature,
    serve: Callable[..., Server],
    act_as: Callable[[Node], None],
    pauses: list[float],
    first: list[str],
    third: list[str],
    expected: int,
) -> None:
    nodes = cluster.nodes
    for node, bodies in ((nodes[0], first), (nodes[2], third)):
        if bodies:
            serve(node.plan.peer_url, node, *bodies)
    act_as(nodes[1])
    peers.wait_for_learner([member(nodes[0], "a1"), member(nodes[2], "c3")], 0.25)
    assert pauses == [0.25] * expected


def test_the_wait_for_a_learner_ends_after_a_time(
    cluster: Miniature, serve: Callable[..., Server], act_as: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = cluster.nodes
    serve(first.plan.peer_url, first, LEARNING)
    act_as(second)
    monkeypatch.setattr(peers, "WAIT_SECONDS", 0.5)
    peers.wait_for_learner([member(first, "a1")], 0.01)


def test_etcd_join_starts_etcdctl_again_only_when_no_learner_is_left(
    cluster: Miniature, serve: Callable[..., Server], tmp_path: Path
) -> None:
    first, second, _ = cluster.nodes
    calls, learner = tmp_path / "calls", {"ID": 0xB2, "peerURLs": ["https://127.0.0.9:2380"], "isLearner": True}
    voter = {"ID": 0xA1, "name": "etcd1", "peerURLs": [first.plan.peer_url], "clientURLs": [first.plan.client_url]}
    (tmp_path / "answer").write_text(json.dumps({"members": [voter, learner]}))
    script = f'#!/bin/sh\necho "$*" >>{calls}\ncase $* in *list*) cat {tmp_path}/answer ;; *) echo "{{}}" ;; esac\n'
    (tmp_path / "etcdctl").write_text(script)
    (tmp_path / "etcdctl").chmod(0o755)
    server = serve(first.plan.peer_url, first, LEARNING, LEARNING, LEARNING, DONE)
    env = second.environment() | {"BAKE_POLL_SECONDS": "0.05"}
    with (
        socket.create_server(peers.address_of(first.plan.client_url)),
        subprocess.Popen(second.hook("etcd-join"), env=env, stdout=subprocess.DEVNULL) as process,
    ):
        deadline = time.monotonic() + 60
        while not calls.exists() or calls.read_text().count("member list") < 2:
            assert time.monotonic() < deadline, server.answers
            time.sleep(0.02)
        process.kill()
    assert len(server.answers) == 1, "etcdctl was started again while a member listed a learner"
