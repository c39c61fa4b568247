"""Call the methods of an object in another process, through a unix socket. All network namespaces share the socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any


@contextmanager
def served(target: object, socket: Path) -> Iterator[None]:
    """Serve the methods of `target`. Only one call runs at a time, also if its caller has ended."""
    one = threading.Lock()
    with Listener(str(socket), family="AF_UNIX") as listener:
        threading.Thread(target=_accept, args=(listener, target, one), daemon=True).start()
        yield
    socket.unlink(missing_ok=True)


def _accept(listener: Listener, target: object, one: threading.Lock) -> None:
    while True:
        try:
            caller = listener.accept()
        except OSError:
            return  # the listener is closed
        threading.Thread(target=_answer, args=(caller, target, one), daemon=True).start()


def _answer(caller: Connection, target: object, one: threading.Lock) -> None:
    """Answer calls until the caller ends."""
    try:
        while True:
            name, arguments = caller.recv()
            with one:
                try:
                    answer = (True, getattr(target, name)(*arguments))
                except Exception as error:
                    answer = (False, error)
            caller.send(answer)
    except (EOFError, OSError):
        caller.close()


class Remote:
    """Stands for the served object."""

    def __init__(self, socket: Path) -> None:
        self._connection = Client(str(socket), family="AF_UNIX")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: object) -> Any:
            self._connection.send((name, arguments))
            is_done, answer = self._connection.recv()
            if not is_done:
                raise answer
            return answer

        return call
