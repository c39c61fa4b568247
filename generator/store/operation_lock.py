"""A lock for a command that changes a running cluster for minutes. It names the command that has the lock.

The lock of `Store.locked` is for changes of the folder, which take seconds.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from generator.errors import BakeError
from generator.store.folder import Store


@contextmanager
def operation_lock(store: Store, command: str) -> Iterator[None]:
    """Hold the lock of a cluster. `command`: what the user called, such as `bake apply`.

    Raise BakeError if another command has the lock; the message names that command, its process, user and host. The
    kernel releases the lock when its process ends, also after SIGKILL.
    """
    path = store.out / f".{store.cluster}.operation"
    descriptor = _opened(path)
    try:
        _write(descriptor, command)
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open and lock the file. Try again if its last owner has removed it in the meantime."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError:
            text = _owner(descriptor)
            os.close(descriptor)
            raise BakeError(f"{text} is changing this cluster", hint="wait until that command has ended") from None
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _write(descriptor: int, command: str) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    facts = {"command": command, "process": os.getpid(), "host": socket.gethostname(), "since": since}
    with suppress(KeyError, OSError):  # the account may have no name
        facts["user"] = getpass.getuser()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(facts).encode(), 0)


def _owner(descriptor: int) -> str:
    """Return a text that names the command with the lock."""
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        user = f" of {facts['user']}" if "user" in facts else ""
        return f"`{facts['command']}` (process {facts['process']}{user} on {facts['host']}, since {facts['since']})"
    except (ValueError, LookupError, TypeError):  # the other command has the lock and has not written the facts yet
        return "another bake command"
