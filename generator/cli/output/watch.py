"""`bake status --watch`: a live table of the members on the terminal, until the user presses q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from generator.errors import BakeError

if TYPE_CHECKING:
    from rich.live import Live

    from generator.operations.baked_cluster import Cluster
    from generator.operations.certs import Entry
    from generator.operations.running.watch import Row, View, Watch
    from generator.operations.status import Task

_REDRAW = 0.25  # seconds
_CERTIFICATES = 60.0  # seconds after which the certificates are read again, because a command may have renewed them
_START_TASK = 60.0  # seconds after which the engine and the nodes are asked again, while no node answers
_UNKNOWN = "-"


def refuse_watch(options: Mapping[str, Any]) -> None:
    """Raise UsageError if a live table makes no sense: --interval without --watch, JSON, --quiet, or no terminal."""
    hint = "without a terminal, run `bake status -o json` as often as you need"
    if not options["watch"]:
        if click.get_current_context().get_parameter_source("interval") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--interval needs --watch")
    elif options["output"] == "json":
        raise click.UsageError("--watch shows a live table; for JSON, run `bake status -o json` without --watch")
    elif options["quiet"]:
        raise click.UsageError("--watch and --quiet exclude each other")
    elif not sys.stdout.isatty():
        raise click.UsageError(f"--watch needs a terminal, and the standard output is not a terminal; {hint}")
    elif os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError(f"--watch needs a terminal that can move the cursor, and TERM is dumb; {hint}")


def watch(cluster: Cluster, interval: float, start_task: Callable[[], Task | None]) -> None:
    """Show the members until the user leaves. Restore the terminal, also after an error or a signal.

    `start_task`: returns the task to start a cluster without VMs, or None.
    """
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        text = "the Python package rich is missing"
        raise BakeError(text, hint="run scripts/setup vm, or in the source folder: pip install '.[vm]'") from None

    from generator.operations.baked_cluster import client_files
    from generator.operations.running.watch import Watch

    console = Console(markup=False, emoji=False, highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    watched = Watch(cluster.plan, client_files(cluster.store.folder), interval)
    with suppress(KeyboardInterrupt), _signals() as stopped, watched:
        picture = Picture(cluster, interval, start_task)
        while _show(live, partial(picture.draw, watched), stopped):
            _suspend()


def _suspend() -> None:
    """Stop this process as Ctrl-Z does, until the shell continues it. Without such a shell, the signal does nothing."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)


def _show(live: Live, draw: Callable[[], Any], stopped: list[int]) -> bool:
    """Draw until the user leaves (return False) or presses Ctrl-Z (return True). Then the terminal is as before."""
    with _keyboard() as read_key, live:
        while not stopped:
            live.update(draw(), refresh=True)
            if read_key(_REDRAW) in ("q", "Q", None):
                return False
        stopped.clear()
        return True


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield a list that gets the signal of Ctrl-Z. Until the end, the signals of Ctrl-\\ and of a closed terminal raise
    KeyboardInterrupt, because they would end the process before it could restore the terminal.
    """
    stopped: list[int] = []

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {signal.SIGTSTP: lambda number, _frame: stopped.append(number)}
    old = {number: signal.signal(number, handlers.get(number, interrupt)) for number in _ENDING | {*handlers}}
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


_ENDING = frozenset({signal.SIGQUIT, signal.SIGHUP})


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str | None]]:
    """Yield a function that waits for a key: up to `seconds`, then it returns "". It returns None at the end of input.

    If the standard input is not a terminal, the function only waits.
    """
    if not sys.stdin.isatty():
        yield _no_key
        return
    descriptor = sys.stdin.fileno()

    def read_key(seconds: float) -> str | None:
        if not select.select([descriptor], [], [], seconds)[0]:
            return ""
        try:
            return os.read(descriptor, 1).decode(errors="replace") or None
        except OSError:  # the terminal is gone
            return None

    old = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield read_key
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, old)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@dataclass
class Picture:
    """What the terminal shows of a cluster. `start_task`: see `watch`; called only while no node answers."""

    cluster: Cluster
    interval: float
    start_task: Callable[[], Task | None]
    _certificates: Mapping[str, Entry] = field(default_factory=dict)
    _read: float = -_CERTIFICATES
    _start: Task | None = None
    _sought: float = -_START_TASK

    def draw(self, watched: Watch) -> Any:
        from generator.operations.running.watch import next_to_expire

        if time.monotonic() - self._read >= _CERTIFICATES:
            found = next_to_expire(self.cluster, now=datetime.now(UTC))
            self._certificates, self._read = found, time.monotonic()
        return self.parts(watched.view(), datetime.now().astimezone())

    def parts(self, view: View, now: datetime) -> Any:
        from rich.console import Group
        from rich.text import Text

        clock = f"{now:%H:%M:%S}"
        title = Text(f"{self.cluster.plan.name}  {clock}, every {self.interval:g} s; q ends\n", style="dim")
        notes = (Text(f"\n{line}") for line in self._notes(view))
        return Group(title, _table(view.rows, view, self._certificates), *notes)

    def _notes(self, view: View) -> Iterator[str]:
        """Yield the lines below the table: the next certificate to expire, alarms, and the operator's tasks."""
        from generator.operations.hints import command
        from generator.operations.maintenance.alarms import explain
        from generator.operations.status import pending_tasks
        from generator.store.cas import load_phase

        if self._certificates:
            first = min(self._certificates.values(), key=lambda one: (one.days_left, one.role))
            yield f"next certificate to expire: {first.owner} {first.role}, in {first.days_left} days"
        for one in explain(self.cluster, view.alarms, view.names):
            yield f"alarm {one.alarm} on {one.node}: {one.meaning}\n  remedy: {one.remedy}"
        if view.complete:
            store, start = self.cluster.store, self._found_start_task(view)
            tasks = pending_tasks(
                self.cluster.plan, view.status, sealed=self.cluster.sealed or start is not None,
                ca_change=load_phase(store), bake=partial(command, store),
            )  # fmt: skip
            first_tasks = [start] if start else []
            yield from (f"to do: {task.task}\n  remedy: {task.remedy}" for task in (*first_tasks, *tasks))

    def _found_start_task(self, view: View) -> Task | None:
        if view.answering:
            return None
        if time.monotonic() - self._sought >= _START_TASK:
            self._start = self.start_task()
            self._sought = time.monotonic()
        return self._start


def _table(rows: Iterable[Row], view: View, certificates: Mapping[str, Entry]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="none")
    for name in ("NODE", "STATE"):
        table.add_column(name, no_wrap=True)
    for name in ("REVISION", "DB", "IN USE", "LAG", "CERT"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row, view, certificates.get(row.node.name)))
    return table


def _cells(row: Row, view: View, first: Entry | None) -> list[Any]:
    from rich.text import Text

    from generator.operations.status import size_text

    node = row.node
    state, style = _state(row)
    alarms = [f"alarm {one.kind}" for one in view.alarms if node.member_id == f"{one.member_id:x}"]
    notes = "; ".join([*alarms, *filter(None, [_reason(row)])])
    return [
        node.name,
        Text(state, style=style),
        _UNKNOWN if node.revision is None else str(node.revision),
        size_text(node.db_size),
        size_text(node.db_in_use),
        _UNKNOWN if row.lag is None else str(row.lag),
        Text(f"{first.days_left} d" if first else _UNKNOWN, style="red" if first and first.is_near else ""),
        Text(notes, style="red" if alarms or node.error else "dim"),
    ]


def _state(row: Row) -> tuple[str, str]:
    """Return the text and the style of a member's state."""
    if not row.asked:
        return "asking", "dim"
    if row.planned and not row.node.reachable:
        return "unreachable", "bold red"
    role = str(row.node.role or "unknown")
    return role, {"leader": "bold green", "voter": "green"}.get(role, "yellow")


def _reason(row: Row) -> str | None:
    if row.silent is None:
        return row.node.error
    return f"{row.node.error}, for {row.silent:.0f} s"
