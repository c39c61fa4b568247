"""The progress of a command: lines of text, the phase of each node, and how far a long piece of work is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Work:
    """A piece of work that may take longer than a second, such as an upload.

    `total`: the amount of the work in `unit`, or 0 if it is unknown. `unit`: `B` for bytes, or "" for things that
    `text` names. `shown`: whether a view on a terminal shows this work. Several threads may call `advance`.
    """

    text: str
    total: int
    unit: str = ""
    done: int = 0
    shown: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def advance(self, amount: int) -> None:
        with self._lock:
            self.done += amount
        for view in list(_views) if self.shown else ():
            view.advanced(self)


class WorkView(Protocol):
    """Shows pieces of work on a terminal. `advanced` may be called by several threads."""

    def begin(self, work: Work) -> None: ...

    def advanced(self, work: Work) -> None: ...

    def end(self, work: Work) -> None: ...


_views: list[WorkView] = []


@contextmanager
def showing(view: WorkView) -> Iterator[None]:
    """Show every piece of work in this view, in the whole process, until the end of the `with` statement."""
    _views.append(view)
    try:
        yield
    finally:
        _views.remove(view)


@contextmanager
def working(text: str, total: int, unit: str = "") -> Iterator[Work]:
    """Yield a piece of work, and show it until the end of the `with` statement. See `Work`.

    Without a terminal, no view shows it, and nothing is printed.
    """
    views = list(_views)
    work = Work(text, total, unit, shown=bool(views))
    for view in views:
        view.begin(work)
    try:
        yield work
    finally:
        for view in views:
            view.end(work)
