"""A gRPC server in the clear, in this process: TLS is for the tests with real etcd."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

Headers = list[tuple[str, str]]
Reply = tuple[Headers, bytes, Headers]  # headers, data, trailers
OK: Headers = [("grpc-status", "0")]
HEADERS: Headers = [(":status", "200"), ("content-type", "application/grpc")]


def framed(message: bytes) -> bytes:
    return struct.pack("!?L", False, len(message)) + message


def good(message: bytes) -> Reply:
    return HEADERS, framed(message), OK


def refusal(code: int, message: str) -> Reply:
    """As etcd says no: headers alone."""
    return [*HEADERS, ("grpc-status", str(code)), ("grpc-message", message)], b"", []


class GrpcServer:
    """Replies to every call with what `reply` makes of its path and message.

    `connections` counts them; `authorities`: whom they asked for.
    """

    def __init__(self, reply: Callable[[str, bytes], Reply], host: str = "127.0.0.1") -> None:
        self.reply = reply
        self.connections = 0
        self.authorities: set[str] = set()
        self.open: list[socket.socket] = []
        self.listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                self.connections += 1
                self.open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        paths: dict[int, str] = {}
        data: dict[int, bytes] = {}
        waiting: dict[int, tuple[bytes, Headers]] = {}
        with client, suppress(OSError, ProtocolError):
            while True:
                client.sendall(http.data_to_send())
                received = client.recv(65536)
                if not received:
                    return
                for event in http.receive_data(received):
                    if isinstance(event, events.RequestReceived):
                        headers = dict(event.headers)
                        self.authorities.add(headers[":authority"])
                        paths[event.stream_id] = headers[":path"]
                        data[event.stream_id] = b""
                    elif isinstance(event, events.DataReceived):
                        data[event.stream_id] += event.data
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, events.StreamEnded):
                        stream = event.stream_id
                        headers, body, trailers = self.reply(paths[stream], data[stream][5:])
                        http.send_headers(stream, headers, end_stream=not body and not trailers)
                        if body or trailers:
                            waiting[stream] = body, trailers
                for stream, (body, trailers) in list(waiting.items()):
                    while room := min(http.local_flow_control_window(stream), http.max_outbound_frame_size, len(body)):
                        http.send_data(stream, body[:room])
                        body = body[room:]
                    waiting[stream] = body, trailers
                    if not body and trailers:
                        http.send_headers(stream, trailers, end_stream=True)
                    elif not body:
                        http.end_stream(stream)
                    if not body:
                        del waiting[stream]

    def drop(self) -> None:
        """Close every connection, as a server that ends does."""
        for client in self.open:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.listener.close()
        self.drop()
