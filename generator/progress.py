"""The interface by which operations report progress: lines of text, and the phase of each node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Report = Callable[[str], None]  # called with one line of text
# In the order in which a node goes through them; `waiting` and `failed` may come at any point.
PHASES = ("booting", "cloud-init", "configured", "joining", "learner", "voting", "settled")


class Progress(Protocol):
    """Receives progress: lines of text (`line`) and the nodes' events (`event`)."""

    def line(self, text: str) -> None: ...

    def event(self, node: str, phase: str, detail: str) -> None: ...


class Silent:
    """Discards all progress."""

    def line(self, text: str) -> None:
        pass

    def event(self, node: str, phase: str, detail: str) -> None:
        pass






