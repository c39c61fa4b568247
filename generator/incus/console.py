"""Read the console log and the journal of a container, and connect a terminal to its console."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from shutil import which

from generator.errors import BakeError
from generator.incus.client import Incus
from generator.plan import JOURNAL_FIELDS

_TAIL = 4096  # bytes by which the end of the last reading is found again
_SURE = 64  # with fewer bytes, two parts of a log may begin alike


class ConsoleLog:
    """Reads a container's console log while the container writes it.

    Incus 6.0 deletes the part of the log that it has returned. So each part goes to the first reader, and a second
    reader gets only what is written after that. `find`: returns the name of the node's instance, or "".
    """

    def __init__(self, incus: Incus, find: Callable[[], str]) -> None:
        self._incus, self._find = incus, find
        self._name, self._seen = "", b""

    def read(self) -> bytes:
        """Return the part of the log that is new since the previous call."""
        try:
            self._name = self._name or self._find()
            data = self._incus.text("instances", self._name, "console") if self._name else b""
        except BakeError:  # no log yet, or the member is off
            self._name = ""
            return b""
        before, self._seen = self._seen, data
        return new_part(before, data)


class JournalLog:
    """Reads a running container's journal with journalctl in the container. A container that is off has no journal.

    `find`: returns the name of the node's instance, or "".
    """

    def __init__(self, incus: Incus, find: Callable[[], str]) -> None:
        self._incus, self._find = incus, find
        self._cursor = ""

    def read(self) -> bytes:
        """Return the entries that are new since the previous call, first those of this boot."""
        begin = f"--after-cursor={self._cursor}" if self._cursor else "--boot"
        words = ["journalctl", begin, "--quiet", "--output=json", f"--output-fields={JOURNAL_FIELDS}"]
        body = {"command": words, "wait-for-websocket": False, "interactive": False, "record-output": True}
        try:
            if not (name := self._find()):
                return b""
            done = self._incus.post("instances", name, "exec", body=body)
            path = done["output"]["1"].split("/")[2:]  # without `/1.0`
            data = self._incus.text(*path)
            self._incus.delete(*path)
        except BakeError:  # the container does not run, or its member is off
            return b""
        lines = data.splitlines()
        self._cursor = str(json.loads(lines[-1])["__CURSOR"]) if lines else self._cursor
        return data


def new_part(before: bytes, data: bytes) -> bytes:
    """Return what is new in `data`: all of it, unless the log still begins with `before` or has lost its begin only.

    A record that is returned twice does no harm, and a record that is lost does.
    """
    if len(before) >= _SURE and data.startswith(before):
        return data[len(before) :]
    place = data.find(before[-_TAIL:]) if len(before) >= _TAIL else -1
    return data if place < 0 else data[place + _TAIL :]


def attach_console(incus: Incus, instance: str) -> None:
    """Connect the terminal to a container's console with the program `incus`."""
    if which("incus") is None:
        raise BakeError("the program `incus` is not installed", hint="print the log instead: bake console NODE | cat")
    target = f"{incus.remote.name}:{instance}"
    subprocess.run(["incus", "console", target, "--project", incus.project], check=False)
