"""A gRPC server without TLS in this process. The tests with a real etcd use TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

Reply = bytes | tuple[grpc.StatusCode, str]  # a message, or a refusal
Replies = list[Reply]  # the messages of a stream, which may end with a refusal


class GrpcServer:
    """A server that answers every call with the result of `reply` for the call's path and message.

    The call Snapshot gets a stream.
    """

    def __init__(self, reply: Callable[[str, bytes], Reply | Replies], host: str = "127.0.0.1") -> None:
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=(_Handler(reply),))
        self.port: int = self.server.add_insecure_port(f"{host}:0")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, reply: Callable[[str, bytes], Reply | Replies]) -> None:
        self.reply = reply

    def service(self, call: Any) -> Any:
        def answer(message: bytes, context: Any) -> bytes:
            reply = self.reply(call.method, message)
            return reply if isinstance(reply, bytes) else bytes(context.abort(*reply))

        def stream(message: bytes, context: Any) -> Iterator[bytes]:
            replies = self.reply(call.method, message)
            for reply in replies if isinstance(replies, list) else [replies]:
                yield reply if isinstance(reply, bytes) else bytes(context.abort(*reply))

        if call.method.endswith("/Snapshot"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)
