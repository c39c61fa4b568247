"""gRPC over HTTP/2: what a server may answer, and when it may go."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.host.grpc import Channel, NotGrpcError, StatusError
from tests.unit.grpc_server import HEADERS, OK, GrpcServer, Reply, framed, good, refusal

Serve = Callable[[Callable[[str, bytes], Reply]], tuple[GrpcServer, Channel]]
HELLO = "/package.Service/Hello"


def channel_to(port: int, seconds: float = 5) -> Channel:
    return Channel("127.0.0.1", port, lambda: None, (1, seconds))


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[tuple[GrpcServer, Channel]] = []

    def start(reply: Callable[[str, bytes], Reply]) -> tuple[GrpcServer, Channel]:
        server = GrpcServer(reply)
        made.append((server, channel_to(server.port)))
        return made[-1]

    yield start
    for server, channel in made:
        channel.close()
        server.stop()


def test_a_call_has_a_path_and_a_message_and_gets_one_back(serve: Serve) -> None:
    _, channel = serve(lambda path, message: good(path.encode() + b"|" + message))
    assert channel.call(HELLO, b"you") == HELLO.encode() + b"|you"


def test_calls_share_a_connection_also_after_one_that_was_refused(serve: Serve) -> None:
    server, channel = serve(lambda _, message: refusal(5, "no") if message == b"b" else good(message))
    assert channel.call(HELLO, b"a") == b"a"
    with pytest.raises(StatusError):
        channel.call(HELLO, b"b")
    assert channel.call(HELLO, b"") == b""
    assert server.connections == 1


def test_no_thread_and_no_file_is_left_behind(serve: Serve) -> None:
    _, channel = serve(lambda _, message: good(message))
    files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    channel.call(HELLO, b"a")
    assert threading.active_count() <= threads + 1  # the server's own
    channel.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 1  # the server's own


def test_messages_longer_than_every_window_go_both_ways(serve: Serve) -> None:
    _, channel = serve(lambda _, message: good(message * 3))
    long = bytes(range(256)) * 3000
    assert channel.call(HELLO, long) == long * 3
    assert channel.call(HELLO, b"and the window is open again") == b"and the window is open again" * 3


def test_a_connection_that_the_server_closed_between_two_calls_is_opened_again(serve: Serve) -> None:
    server, channel = serve(lambda _, message: good(message))
    channel.call(HELLO, b"a")
    server.drop()
    assert channel.call(HELLO, b"b") == b"b"
    assert server.connections == 2


def test_a_refusal_has_the_servers_number_and_words(serve: Serve) -> None:
    _, channel = serve(lambda *_: refusal(14, "etcdserver%3A no%0Aleader"))
    with pytest.raises(StatusError) as caught:
        channel.call(HELLO, b"")
    assert (caught.value.code, caught.value.message) == (14, "etcdserver: no\nleader")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (([(":status", "502")], b"<html>", []), "HTTP status 502"),
        (([(":status", "302")], b"", []), "HTTP status 302"),
        ((HEADERS, framed(b"a"), [("x", "y")]), "without a status"),
        (([*HEADERS, ("grpc-status", "-1")], b"", []), "without a status"),
        ((HEADERS, b"", OK), "not one message"),
        ((HEADERS, framed(b"a") + b"b", OK), "not one message"),
        ((HEADERS, framed(b"a") * 2, OK), "not one message"),
        ((HEADERS, b"\1" + framed(b"a")[1:], OK), "not one message"),
    ],
)
def test_an_answer_that_is_not_grpcs_is_an_error(serve: Serve, reply: Reply, words: str) -> None:
    _, channel = serve(lambda *_: reply)
    with pytest.raises(NotGrpcError, match=words):
        channel.call(HELLO, b"")


def answering(data: bytes) -> tuple[socket.socket, Channel]:
    """Somebody who says these bytes to the first who comes, and goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with suppress(OSError), listener.accept()[0] as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    threading.Thread(target=answer, daemon=True).start()
    return listener, channel_to(listener.getsockname()[1])


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"])
def test_another_protocol_is_named_so(data: bytes) -> None:
    listener, channel = answering(data)
    with listener, pytest.raises(NotGrpcError, match="not HTTP/2"):
        channel.call(HELLO, b"")


def test_a_server_that_says_nothing_and_goes_has_closed_the_connection() -> None:
    listener, channel = answering(b"")
    with listener, pytest.raises(ConnectionResetError):
        channel.call(HELLO, b"")


# What a server says: settings, that it has ours, headers, data with the answer `hi`, trailers.
GOOD = bytes.fromhex(
    "000000040000000000" "000000040100000000" "00001a010400000001" "885f8b1d75d0620d263d4c4d6564" "0f0d0130" "0f1f0130"
)  # fmt: skip


@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_no_bytes_whatever_do_any_harm(noise: bytes, start: int, end: int) -> None:
    listener, channel = answering(GOOD[:start] + noise + GOOD[end:])
    with listener, pytest.raises((OSError, NotGrpcError, StatusError)):
        channel.call(HELLO, b"")
    channel.close()


def test_a_server_that_trickles_does_not_hold_us_for_longer_than_the_time_limit(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def trickle() -> None:
            with suppress(OSError), listener.accept()[0] as client:
                while not over.wait(0.02):
                    client.sendall(bytes.fromhex("000000040000000000"))  # settings, again and again

        threading.Thread(target=trickle, daemon=True).start()
        with pytest.raises(TimeoutError):
            channel_to(listener.getsockname()[1], 0.3).call(HELLO, b"")
        over.set()
