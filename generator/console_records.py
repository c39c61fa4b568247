"""Read the nodes' progress from their serial consoles, and save the output for troubleshooting."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from generator.engine import Console
from generator.errors import BakeError, WaitTimeoutError
from generator.layout import EVENTS
from generator.progress import PHASES

_RECORD = re.compile(
    r"bake: node=(?P<node>[a-z0-9][a-z0-9-]{0,62}) phase=(?P<phase>[a-z][a-z-]{0,30})(?![^\s\x00-\x1f])"
    r"(?: seed=(?P<seed>[a-z0-9-]{1,90})(?![^\s\x00-\x1f]))?"
    r'(?: detail="(?P<detail>[^"]*)")?'
)
_FATAL = re.compile(
    r"(Kernel panic - not syncing: .*|You are in emergency mode.*|No bootable option or device was found.*)"
)
# Escape sequences (ECMA-48), which systemd prints for coloured lines.
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[ -/]*[0-~])")
STARTED = "started by bake"  # the detail of the record `booting` that bake writes when it starts a node's VM
FAILING = "failing"  # etcd or one of its hooks has failed, and systemd starts it again
_MOST_FAILURES = 5  # for the same reason; systemd waits for 2 s before each new start (RestartSec)
_WORKING = ("learner", "voting", "settled")
_MAX_LINE = 16384
_MAX_DETAIL = 500
_HEALTH_SECONDS = 2.0
_QUIET_SECONDS = 30.0  # more time than an emulated guest needs to print its first progress record


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A node reached a phase. `detail`: text for the user. `seed`: instance-id of the seed that the node applied."""

    node: str
    phase: str
    detail: str = ""
    seed: str = ""


def parse_line(line: str, node: str) -> list[Event]:
    """Return bake's progress records in one console line, which may also contain kernel or systemd output.

    Ignore records with another node's name.
    """
    text = _ESCAPE.sub("", line)
    events = [
        Event(
            node=node, phase=match["phase"], detail=(match["detail"] or "")[:_MAX_DETAIL], seed=match["seed"] or ""
        )
        for match in _RECORD.finditer(text)
        if match["node"] == node
    ]
    fatal = _FATAL.search(text)
    return (
        [*events, Event(node=node, phase="failed", detail=fatal[1].strip()[:_MAX_DETAIL])]
        if fatal
        else events
    )


@dataclass
class LineReader:
    """Splits a console's output into lines and returns the events in the lines. A line may arrive in several pieces."""

    node: str
    _rest: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> list[Event]:
        *lines, rest = re.split(rb"[\r\n]+", self._rest + data)
        self._rest = rest[-_MAX_LINE:]
        return [event for line in lines for event in parse_line(line.decode(errors="replace"), self.node)]


class Journal:
    """Writes `console.log` for each node, and `events.ndjson`. The files may contain secrets, so their mode is 0600."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _console(self, node: str) -> Path:
        return self.folder / node / "console.log"

    def where(self, nodes: Iterable[str]) -> str:
        """Return a hint that names the nodes' console logs, or says that there are none."""
        paths = [str(path) for node in nodes if (path := self._console(node)).exists()]
        if not paths:
            return "the VMs have printed nothing; check that the image has a boot loader and a console on ttyS0"
        return f"see the nodes' consoles: {', '.join(paths)}"

    def begin(self, nodes: Iterable[str]) -> None:
        """Rename each node's `console.log` from the previous run to `console.log.1`."""
        for node in nodes:
            path = self._console(node)
            if path.exists():
                path.replace(path.with_name("console.log.1"))

    def keep_output(self, node: str, data: bytes) -> None:
        _append(self._console(node), data)

    def keep_event(self, event: Event, seconds: float) -> None:
        record = {"time": round(seconds, 3), "node": event.node, "phase": event.phase, "detail": event.detail}
        _append(self.folder / EVENTS, json.dumps(record).encode() + b"\n")

    def keep_start(self, node: str, seconds: float) -> None:
        """Store that bake starts a node's VM. With this record, the node's boot timeline begins."""
        self.keep_event(Event(node=node, phase=PHASES[0], detail=STARTED), seconds)

    def tail(self, node: str, lines: int = 15) -> list[str]:
        """Return the last lines of a node's console, without escape sequences and empty lines."""
        try:
            raw = self._console(node).read_bytes()[-65536:]
        except FileNotFoundError:
            return []
        text = _ESCAPE.sub("", raw.decode(errors="replace"))
        clean = ("".join(c for c in line if c.isprintable()).rstrip() for line in re.split(r"[\r\n]+", text))
        return [line for line in clean if line][-lines:]


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)


def follow(
    sources: Mapping[str, Console],
    journal: Journal,
    *,
    timeout: float,
    health: Callable[[], Mapping[str, str]] = dict,
    ask: Callable[[list[str]], Iterable[Event]] = lambda _nodes: (),
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    poll: float = 0.25,
) -> Iterator[Event]:
    """Yield every node's events until the caller stops. Raise WaitTimeoutError after `timeout` seconds.

    A node's first event is the last record that is already on its console. A failure that is already on a console may
    be from an earlier boot, so the function yields the failure only after 30 seconds without a newer record.
    `health` returns the nodes whose VM has stopped, with the reason. Each stopped node gets one event `failed`.
    After 30 seconds, the function calls `ask` for the events of the nodes that have printed no record. A node prints no
    record if libvirt restored its VM from a saved state.
    """
    readers = {node: LineReader(node) for node in sources}
    states = [event for node in sources for event in _read_node(sources[node], readers[node], journal)[-1:]]
    last = dict.fromkeys(sources, "") | {event.node: event.phase for event in states}
    details = dict.fromkeys(sources, "") | {event.node: event.detail for event in states}
    old_failures = {event.node: event for event in states if event.phase == "failed"}
    events = [event for event in states if event.phase != "failed"]
    start = checked = clock()
    while clock() - start < timeout:
        for event in events:
            old_failures.pop(event.node, None)
            last[event.node], details[event.node] = event.phase, event.detail
            journal.keep_event(event, clock())
            yield event
        if not events:
            sleep(poll)
        events = [event for node in sources for event in _read_node(sources[node], readers[node], journal)]
        if clock() - checked >= _HEALTH_SECONDS:
            checked = clock()
            stopped = [Event(node=node, phase="failed", detail=text) for node, text in health().items()]
            events += [one for one in stopped if last[one.node] != one.phase or one.node in old_failures]
            if clock() - start >= _QUIET_SECONDS:
                reported = {event.node for event in events}
                events += [event for node, event in old_failures.items() if node not in reported]
                silent = [node for node, phase in last.items() if not phase and node not in reported]
                events += ask(silent) if silent else ()
    where = ", ".join(f"{node}: {_shown(last[node], details[node])}" for node in last)
    raise WaitTimeoutError(
        f"timed out after {timeout:.0f} s; the nodes' last reports: {where}",
        hint=journal.where(last),
    )


def _shown(phase: str, detail: str) -> str:
    return f"{phase} ({detail})" if detail else phase or "nothing"


@dataclass
class Failures:
    """Counts how often etcd has failed on each node for the same reason.

    `look`: returns the command that shows the reasons on a node.
    """

    look: Callable[[str], str]
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        """Raise BakeError if a node has failed for good. When a node joins, the count begins again."""
        if event.phase == "failed":
            raise BakeError(f"{event.node} failed: {event.detail}")
        if event.phase in _WORKING:
            self._counts = Counter({key: count for key, count in self._counts.items() if key[0] != event.node})
        if event.phase == FAILING:
            self._counts[event.node, event.detail] += 1
            if self._counts[event.node, event.detail] >= _MOST_FAILURES:
                text = f"{event.node}: etcd does not start: {event.detail}"
                raise BakeError(text, hint=f"see {self.look(event.node)}")


def _read_node(source: Console, reader: LineReader, journal: Journal) -> list[Event]:
    data = source.read()
    if data:
        journal.keep_output(reader.node, data)
    return reader.feed(data)
