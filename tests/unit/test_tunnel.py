"""Connections to nodes through a host: the ssh command of a libvirt URI, and sockets that lead to the nodes."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.errors import BakeError
from generator.etcd.dial import accepting, dial, forwarded, has_route, reachable, source_address, through
from generator.etcd.tunnel import open_tunnel
from generator.vm.connection import is_remote, ssh_command

# Stands for ssh: forwards each `-L SOCKET:ADDRESS:PORT` itself, and runs the last argument, the remote command.
FAKE_SSH = """#!{python}
import os, socket, subprocess, sys, threading
words = sys.argv[1:]
def pump(a, b):
    while data := a.recv(65536):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
def serve(path, address, port):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    def run():
        while True:
            one, _ = server.accept()
            try:
                other = socket.create_connection((address, int(port)))
            except OSError:
                one.close()
                continue
            threading.Thread(target=pump, args=(one, other), daemon=True).start()
            threading.Thread(target=pump, args=(other, one), daemon=True).start()
    threading.Thread(target=run, daemon=True).start()
for index, word in enumerate(words):
    if word == "-L":
        serve(*words[index + 1].rsplit(":", 2))
sys.exit(subprocess.call(["sh", "-c", words[-1]]))
"""


@pytest.fixture
def ssh(tmp_path: Path) -> list[str]:
    program = tmp_path / "ssh"
    program.write_text(FAKE_SSH.format(python=sys.executable))
    program.chmod(0o755)
    return [str(program), "--", "host1"]


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers each connection with `node`."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            one.sendall(b"node")
            one.close()

    threading.Thread(target=run, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+ssh://root@h1:2222/system", ["ssh", "-p", "2222", "-l", "root", "--", "h1"]),
        ("qemu+ssh://h1/system?keyfile=/k&command=/bin/x", ["/bin/x", "-i", "/k", "--", "h1"]),
        ("qemu+libssh2://h1/system?known_hosts=/h", ["ssh", "-o", "UserKnownHostsFile=/h", "--", "h1"]),
        ("qemu+tls://h1/system", None),
        ("qemu:///system", None),
    ],
)
def test_the_tunnel_uses_the_ssh_of_the_uri(uri: str, words: list[str] | None) -> None:
    found = ssh_command(uri)
    fixed = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    assert found == (words and [words[0], *fixed, *words[1:]])
    assert is_remote(uri) is ("h1" in uri)


def test_a_machine_without_a_network_has_no_route() -> None:
    script = "from generator.etcd.dial import has_route; print(has_route('10.1.2.3', 1), has_route('2001:db8::1', 1))"
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", sys.executable, "-c", script],
        cwd=Path(__file__).parents[2], text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False False\n"
    assert has_route("127.0.0.1", 1)


def test_the_default_uri_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+ssh://h7/system")
    assert is_remote(None)
    assert (ssh_command(None) or [])[-1] == "h7"
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI")
    assert not is_remote(None)


def test_a_connection_goes_through_the_tunnel_until_its_end(ssh: list[str], port: int) -> None:
    with open_tunnel(ssh, [("127.0.0.1", port)]) as tunnel, through(tunnel):
        path = forwarded("127.0.0.1", port)
        assert path is not None
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with dial("127.0.0.1", port, 5) as sock:
            assert sock.family == socket.AF_UNIX
            assert sock.recv(10) == b"node"
        assert source_address("127.0.0.1", port) == "127.0.0.1"
        assert reachable([("127.0.0.1", port)]) == {("127.0.0.1", port)}
    assert forwarded("127.0.0.1", port) is None
    assert not path.parent.exists()
    with dial("127.0.0.1", port, 5) as sock:
        assert sock.family == socket.AF_INET


def test_a_port_that_the_host_cannot_reach_is_refused(ssh: list[str]) -> None:
    """ssh accepts the connection to its socket all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    target = ("127.0.0.1", closed)
    with open_tunnel(ssh, [target]) as tunnel, through(tunnel), pytest.raises(ConnectionRefusedError, match="the host"):
        dial(*target, 5)


def test_ssh_that_fails_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    command = ["sh", "-c", "echo 'Permission denied (publickey).' >&2; exit 255", "--", "host1"]
    tunnel = open_tunnel(command, [("127.0.0.1", 1)])
    with pytest.raises(BakeError, match=r"ssh cannot connect to host1: Permission denied") as error, tunnel:
        pass
    assert error.value.hint is not None
    assert error.value.hint.endswith("host1 true")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_refuses_is_reachable(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    both = [("127.0.0.1", closed), ("127.0.0.1", port)]
    assert reachable(both) == {*both}
    assert accepting(both) == {("127.0.0.1", port)}
