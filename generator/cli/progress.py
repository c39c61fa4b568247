"""Show the progress of nodes, as a live table on a terminal, otherwise as one line for each event."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from generator.progress import PHASES, Progress, Silent


class Plain:
    """Prints one line for each event, with the seconds since the start."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.start = time.monotonic()

    def line(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", file=self.stream, flush=True)

    def event(self, node: str, phase: str, detail: str) -> None:
        self.line(f"{node}: {phase}{f' ({detail})' if detail else ''}")


class Live:
    """Shows a table that is updated in place, and scrolls lines of text above the table."""

    def __init__(self, nodes: Iterable[str], stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.start = time.monotonic()
        self.states = dict.fromkeys(nodes, ("", ""))
        self.reached = dict.fromkeys(self.states, -1)
        self.live = RichLive(get_renderable=self._table, console=Console(file=stream), refresh_per_second=4)

    def line(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False)

    def event(self, node: str, phase: str, detail: str) -> None:
        if phase in PHASES:
            self.reached[node] = PHASES.index(phase)
        self.states[node] = (phase, detail)

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for node, (phase, detail) in self.states.items():
            done = self.reached[node] + 1
            bar = Text("━" * (3 * done), style="green") + Text("─" * (3 * (len(PHASES) - done)), style="dim")
            style = "red" if phase == "failed" else "bold green" if phase == PHASES[-1] else "bold"
            table.add_row(
                node, bar, Text(phase, style=style), Text(detail, style="dim", overflow="ellipsis", no_wrap=True)
            )
        table.add_row("", Text(f"{time.monotonic() - self.start:.0f} s", style="dim"))
        return table


@contextmanager
def show_progress(nodes: Iterable[str], *, quiet: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a `Progress` that writes to `stream`: a live table on a terminal, lines of text otherwise."""
    stream = stream or sys.stderr
    if quiet:
        yield Silent()
    elif stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        view = Live(nodes, stream)
        with view.live:
            yield view
    else:
        yield Plain(stream)
