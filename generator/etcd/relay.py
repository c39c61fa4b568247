"""Local TCP ports that lead through a tunnel, for a program such as etcdctl that cannot use the tunnel's sockets."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from generator.etcd.dial import TIMEOUT_SECONDS, dial


@contextmanager
def relay(address: str, port: int) -> Iterator[tuple[str, int]]:
    """Return a local address and port that lead to a node's port, until the end of the `with` statement.

    The relay copies bytes only, so TLS goes from the program to the node. A node's certificate has 127.0.0.1.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), dial(address, port, TIMEOUT_SECONDS) as node:
                node.settimeout(None)
                back = threading.Thread(target=_copy, args=(node, self.request), daemon=True)
                back.start()
                _copy(self.request, node)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=True) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
