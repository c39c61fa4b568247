"""One call after the other to a gRPC server, over HTTP/2 on a socket of our own.

So TLS, its errors and the time limits are the same as everywhere else in bake, and no thread is left behind.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error

_CHUNK = 1 << 16
_SETTINGS = b"\4"  # a frame's type


class NotGrpcError(Exception):
    """The server answered, but with something else than gRPC."""


class StatusError(Exception):
    """The server's answer is an error: gRPC's number for its kind, and the server's words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Channel:
    """A connection with a server, opened for the first call, and again where the server has closed it.

    `timeout`: seconds to connect, and for an answer. A call raises OSError, NotGrpcError or StatusError.
    """

    def __init__(
        self, host: str, port: int, context: Callable[[], ssl.SSLContext | None], timeout: tuple[float, float]
    ) -> None:
        self.host, self.port, self.context, self.timeout = host, port, context, timeout
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._session: _Session | None = None

    def call(self, method: str, question: bytes) -> bytes:
        """The answer to a question, both as they are on the wire; `method` is `/package.Service/Name`."""
        if self._session and self._session.has_ended():
            self.close()
        try:
            self._session = self._session or _Session(self._connect(), self.authority)
            return self._session.call(method, question, self.timeout[1])
        except H2Error as error:
            self.close()
            raise NotGrpcError("it is not HTTP/2") from error
        except (OSError, NotGrpcError):
            self.close()
            raise

    def close(self) -> None:
        """The next call opens another connection."""
        if self._session:
            self._session.socket.close()
        self._session = None

    def _connect(self) -> socket.socket:
        context = self.context()
        try:
            plain = socket.create_connection((self.host, self.port), self.timeout[0])
        except TimeoutError:
            raise OSError("no connection in time") from None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return plain
        context.set_alpn_protocols(["h2"])
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class _Session:
    """HTTP/2 on a connected socket; one stream at a time."""

    def __init__(self, connected: socket.socket, authority: str) -> None:
        self.socket, self.authority = connected, authority
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.http.initiate_connection()
        self.is_greeted = False

    def has_ended(self) -> bool:
        """Whether the server has closed it since the last call. What else may have come is answered."""
        try:
            while select.select([self.socket], [], [], 0)[0]:
                self.socket.settimeout(0.1)
                with suppress(TimeoutError):  # a part of a TLS record, or a record with no data in it
                    data = self.socket.recv(_CHUNK)
                    heard = self.http.receive_data(data)
                    if not data or any(isinstance(event, events.ConnectionTerminated) for event in heard):
                        return True
                    self._send(time.monotonic() + 1)
        except (OSError, H2Error):
            return True
        return False

    def call(self, method: str, question: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, self._headers(method))
        answer = _Answer(stream)
        rest = struct.pack("!?L", False, len(question)) + question  # not compressed, its length
        while not answer.is_complete:
            rest = self._send_part(stream, rest)
            self._send(deadline)
            self._receive(answer, deadline)
        return answer.message()

    def _headers(self, method: str) -> list[tuple[str, str]]:
        return [
            (":method", "POST"), (":scheme", "https"), (":path", method), (":authority", self.authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "bake"),
        ]  # fmt: skip

    def _send_part(self, stream: int, data: bytes) -> bytes:
        """As much as the server takes now; returns the rest, of which the last is the stream's end."""
        while data and (room := min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)):
            part, data = data[:room], data[room:]
            self.http.send_data(stream, part, end_stream=not data)
        return data

    def _send(self, deadline: float) -> None:
        self.socket.settimeout(_left(deadline))
        with suppress(ConnectionError, ssl.SSLError):  # refused already: the alert is still there to be read
            self.socket.sendall(self.http.data_to_send())

    def _receive(self, answer: _Answer, deadline: float) -> None:
        self.socket.settimeout(_left(deadline))
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError
        if not self.is_greeted and data[3:4] not in (_SETTINGS, b""):  # what every server says first (RFC 9113, 3.4)
            raise NotGrpcError("it is not HTTP/2")
        self.is_greeted = True
        for event in self.http.receive_data(data):
            if size := answer.take(event):
                self.http.acknowledge_received_data(size, answer.stream)


class _Answer:
    """What the server says on one stream."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.headers: dict[str, str] = {}
        self.data = b""
        self.is_complete = False

    def take(self, event: object) -> int:
        """Note an event of HTTP/2's; returns how many bytes of the flow control's window it took."""
        if isinstance(event, events.ConnectionTerminated):
            raise ConnectionResetError
        if getattr(event, "stream_id", None) != self.stream:
            return 0
        if isinstance(event, events.StreamReset):
            raise ConnectionResetError
        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            texts = ([text.decode(errors="replace") for text in header] for header in event.headers)
            self.headers |= dict(texts)
        self.is_complete |= isinstance(event, events.StreamEnded)
        if isinstance(event, events.DataReceived):
            self.data += event.data
            return int(event.flow_controlled_length)
        return 0

    def message(self) -> bytes:
        """The one message of the answer."""
        if (http := self.headers.get(":status")) != "200":
            raise NotGrpcError(f"HTTP status {http}")
        code = self.headers.get("grpc-status", "")
        if not code.isdigit():
            raise NotGrpcError("without a status")
        if int(code):
            raise StatusError(int(code), unquote(self.headers.get("grpc-message", "")))
        if self.data[:5] != struct.pack("!?L", False, max(len(self.data) - 5, 0)):
            raise NotGrpcError("not one message")
        return self.data[5:]


def _left(deadline: float) -> float:
    """Seconds; raises TimeoutError when none is left."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
