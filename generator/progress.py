"""The progress of a command: lines of text and the phase of each node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Report = Callable[[str], None]  # a function that receives one line of text
# A node's phases in order. PHASES lacks `waiting` and `failed`, which can begin at any time.
PHASES = ("booting", "cloud-init", "configured", "joining", "learner", "voting", "settled")


class Progress(Protocol):
    """Receives a command's progress: lines of text (`line`) and the phases of nodes (`event`)."""

    def line(self, text: str) -> None: ...

    def event(self, node: str, phase: str, detail: str) -> None: ...


class Silent:
    """Discards all progress."""

    def line(self, text: str) -> None:
        pass

    def event(self, node: str, phase: str, detail: str) -> None:
        pass
