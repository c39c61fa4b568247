"""A program in a pseudo-terminal, and what its user would see: pyte is the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyte

PATIENCE = 120  # seconds that a program may need on a busy machine


class Terminal:
    """Runs a program until the end of the `with` statement. `text`: what the terminal shows now.

    `raw`: every byte that the program has written. `modes`: the settings of the terminal before the program started.
    """

    def __init__(
        self, command: Sequence[object], *, columns: int = 100, lines: int = 40, folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.modes = termios.tcgetattr(self.master)
        unset = {"COLUMNS", "LINES", "NO_COLOR"}
        kept = {key: value for key, value in os.environ.items() if key not in unset and not key.startswith("BAKE_")}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *map(str, command)], stdin=slave, stdout=slave, stderr=slave, cwd=folder,
            env={**kept, "TERM": "xterm-256color", **(env or {})},
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the last process of the terminal has ended
                return
            with self._lock:
                self.raw += data
                self._stream.feed(data)

    @property
    def text(self) -> str:
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def row(self, begin: str) -> str:
        """Return the line that begins with a text, or "" if no line does."""
        return next((line for line in self.text.splitlines() if line.startswith(begin)), "")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}\n{self.text}"
            time.sleep(0.05)

    def ended(self) -> int:
        """Wait for the end of the program. Return its exit code."""
        code = self.process.wait(PATIENCE)
        self._drain()
        return code

    def _drain(self) -> None:
        """Wait until the terminal has shown everything that the program wrote."""
        size = -1
        while size != len(self.raw):
            size = len(self.raw)
            time.sleep(0.1)

    def is_restored(self) -> bool:
        """Whether keys are shown again and need Enter, the cursor is visible, and the first screen is back."""
        now: list[Any] = termios.tcgetattr(self.master)
        hidden = self.raw.rfind(b"\x1b[?25l") > self.raw.rfind(b"\x1b[?25h")
        other = self.raw.rfind(b"\x1b[?1049h") > self.raw.rfind(b"\x1b[?1049l")
        return now == self.modes and not hidden and not other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.master)
