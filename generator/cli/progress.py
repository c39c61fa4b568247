"""Show the progress of a command, on a terminal as a live table and bars, otherwise as one line for each event."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from generator.progress import PHASES, Progress, Silent, Work, showing

_PATIENCE = 1.0  # seconds after which a bar appears
_BAR = 24  # characters
_WIDE = 100  # columns from which the bars of the nodes are longer
_ENDED = (PHASES[-1], "failed")
Clock = Callable[[], float]


class Plain:
    """Prints one line for each event, with the seconds since the start."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.start = time.monotonic()

    def line(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", file=self.stream, flush=True)

    def event(self, node: str, phase: str, detail: str) -> None:
        self.line(f"{node}: {phase}{f' ({detail})' if detail else ''}")


@dataclass
class NodeProgress:
    """A node's phase. Times are monotonic seconds, or None if the node has not begun or ended."""

    phase: str = ""
    detail: str = ""
    reached: int = -1  # the index of the last phase in PHASES
    began: float | None = None
    since: float | None = None  # when the phase began
    ended: float | None = None

    def enter(self, phase: str, detail: str, now: float) -> None:
        if phase in PHASES:
            self.reached = PHASES.index(phase)
        if phase != self.phase:
            self.since = now
        self.began = now if self.began is None else self.began
        self.ended = now if phase in _ENDED else None
        self.phase, self.detail = phase, detail

    def seconds(self, begin: float | None, now: float) -> str:
        """Return the time since `begin`. The clock of a node stops when it has settled or failed."""
        return "" if begin is None else f"{(now if self.ended is None else self.ended) - begin:.0f} s"


class Live:
    """Shows a table that is updated in place, and scrolls lines of text above the table.

    The rows are in the order of `nodes`. A node that is not in `nodes` gets the last row.
    """

    def __init__(self, nodes: Iterable[str], stream: TextIO, clock: Clock = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.clock, self.start = clock, clock()
        self.nodes = {node: NodeProgress() for node in nodes}
        self.works: list[Work] = []
        self.console = Console(file=stream, markup=False, emoji=False, highlight=False)
        self.live = RichLive(get_renderable=self.table, console=self.console, refresh_per_second=4)

    def line(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text("\n".join(map(printable, text.split("\n")))), soft_wrap=True)

    def event(self, node: str, phase: str, detail: str) -> None:
        self.nodes.setdefault(node, NodeProgress()).enter(phase, detail, self.clock())

    def begin(self, work: Work) -> None:
        self.works.append(work)

    def advanced(self, work: Work) -> None:
        pass  # the table is drawn four times in a second

    def end(self, work: Work) -> None:
        self.works.remove(work)

    def table(self) -> Any:
        """Return the table, the bars of the running work, and the seconds since the start."""
        from rich.console import Group
        from rich.text import Text

        now = self.clock()
        parts = [*([self._nodes(now)] if self.nodes else []), *map(bar_of, list(self.works))]
        return Group(*parts, Text(f"{now - self.start:.0f} s", style="dim"))

    def _nodes(self, now: float) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for title, justify in (("NODE", "left"), ("", "left"), ("PHASE", "left"), ("FOR", "right"), ("TOTAL", "right")):
            table.add_column(title, no_wrap=True, justify=justify)  # type: ignore[arg-type]
        table.add_column("", overflow="ellipsis")  # the column that becomes narrower; its texts are not wrapped
        step = 3 if self.console.width >= _WIDE else 1
        for name, node in list(self.nodes.items()):
            done = node.reached + 1
            bar = Text.assemble(("━" * (step * done), "green"), ("─" * (step * (len(PHASES) - done)), "dim"))
            style = "red" if node.phase == "failed" else "bold green" if node.phase == PHASES[-1] else "bold"
            for_, total = node.seconds(node.since, now), node.seconds(node.began, now)
            words = (Text(printable(node.phase), style=style), "" if node.ended is not None else for_, total)
            table.add_row(Text(printable(name)), bar, *words, Text(printable(node.detail), style="dim", no_wrap=True))
        return table


def bar_of(work: Work) -> Any:
    """Return the line of a piece of work, such as `uploading etcd1.iso ━━━━──── 40 of 116 MiB`."""
    from rich.text import Text

    part = min(work.done / work.total, 1) if work.total else 0
    full = round(_BAR * part)
    bar = (("━" * full, "green"), ("─" * (_BAR - full), "dim"), "  ") if work.total else ()
    return Text.assemble(f"{printable(work.text)}  ", *bar, _amount(work), no_wrap=True, overflow="ellipsis")


def _amount(work: Work) -> str:
    done, total = ((work.done >> 20, work.total >> 20) if work.unit == "B" else (work.done, work.total))
    unit = " MiB" if work.unit == "B" else ""
    return f"{done} of {total}{unit}" if work.total else f"{done}{unit}"


def printable(text: str) -> str:
    """Return the text without control characters: parts of the text come from the consoles of nodes."""
    return "".join(character for character in text if character.isprintable())


class Bars:
    """Shows the running work below the text that a command prints. A bar appears after a second."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.works: dict[int, tuple[Work, float]] = {}
        self.live: Any = None
        self._lock = threading.Lock()

    def begin(self, work: Work) -> None:
        self.works[id(work)] = (work, self.clock())

    def advanced(self, work: Work) -> None:
        with self._lock:
            found = self.works.get(id(work))
            if self.live is None and found and self.clock() - found[1] >= _PATIENCE:
                self._start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        console = Console(file=self.stream, markup=False, emoji=False, highlight=False)
        self.live = RichLive(get_renderable=self._bars, console=console, refresh_per_second=4, transient=True)
        self.live.start(refresh=True)

    def end(self, work: Work) -> None:
        with self._lock:
            self.works.pop(id(work))
            if self.live is not None and not self.works:
                self.live.stop()
                self.live = None

    def _bars(self) -> Any:
        from rich.console import Group

        return Group(*(bar_of(work) for work, _ in list(self.works.values())))


def is_live(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def show_progress(nodes: Iterable[str], *, quiet: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a `Progress` that writes to `stream`: a live table on a terminal, lines of text otherwise."""
    stream = stream or sys.stderr
    if quiet:
        yield Silent()
    elif is_live(stream):
        view = Live(nodes, stream)
        with view.live, showing(view):
            yield view
    else:
        yield Plain(stream)


@contextmanager
def show_work(*, quiet: bool, stream: TextIO | None = None) -> Iterator[None]:
    """Show bars for long work until the end of the `with` statement, for a command that prints its progress itself.

    Without a terminal, with `quiet`, or without the package rich, show nothing.
    """
    from importlib.util import find_spec

    stream = stream or sys.stderr
    if quiet or not is_live(stream) or find_spec("rich") is None:
        yield
        return
    with showing(Bars(stream)):
        yield
