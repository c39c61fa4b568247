"""What operations report while they work: lines of text, and the phase of each node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Report = Callable[[str], None]  # is given one line of text
# In the order in which a node goes through them; `waiting` and `failed` may come at any point.
PHASES = ("booting", "cloud-init", "configured", "joining", "learner", "voting", "settled")


class Progress(Protocol):
    """Where commands report what they do (`line`) and what the nodes say (`event`)."""

    def line(self, text: str) -> None: ...

    def event(self, node: str, phase: str, detail: str) -> None: ...


class Silent:
    """Says nothing."""

    def line(self, text: str) -> None:
        pass

    def event(self, node: str, phase: str, detail: str) -> None:
        pass






