"""`bake logs`: the journals of the nodes, which each VM copies to its host (journal-copy.service)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from generator.engine import Console, Engine
from generator.errors import BakeError, InputError

_POLL_SECONDS = 0.5
_SPAN = re.compile(r"(\d{1,6})(s|m|h|d)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ZAP = ("level", "ts", "caller", "msg", "logger", "stacktrace")  # in each message of etcd
_INFO = 6  # the priority of an entry without a priority (syslog(3): LOG_INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a node's journal.

    `time`: when journald received it. `units`: the unit that wrote it, and the unit that systemd wrote about.
    `priority`: 0 (emergency) to 7 (debug), as in syslog(3). `cursor`: identifies the entry.
    """

    node: str
    time: datetime
    message: str
    identifier: str = ""
    pid: str = ""
    units: tuple[str, ...] = ()
    priority: int = _INFO
    cursor: str = ""

    @property
    def text(self) -> str:
        """The entry as `journalctl` shows it, with the node's name instead of the host name."""
        source = f"{self.identifier}[{self.pid}]" if self.pid else self.identifier
        first, *more = _readable(self.message).splitlines() or [""]
        head = f"{_rfc3339(self.time)} {self.node} {source}: "
        return "\n".join([head + _printable(first), *(f"    {_printable(line)}" for line in more)])

    @property
    def data(self) -> dict[str, object]:
        """The entry's object in the output of `-o json`."""
        return {
            "time": _rfc3339(self.time), "node": self.node, "unit": self.units[-1] if self.units else None,
            "identifier": self.identifier, "pid": int(self.pid) if self.pid.isdecimal() else None,
            "priority": self.priority, "message": self.message,
        }  # fmt: skip


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _readable(message: str) -> str:
    """Return a message of etcd, which is a JSON object, as text; any other message as it is."""
    try:
        found = json.loads(message) if message.startswith("{") else None
    except (ValueError, RecursionError):
        return message
    if not isinstance(found, dict) or "msg" not in found:
        return message
    more = [f"{name}={value}" for name, value in found.items() if name not in _ZAP]
    return " ".join([f"{found.get('level', 'info')}: {found['msg']}", *more])


def _printable(line: str) -> str:
    """Return a line without characters that a terminal could take for commands."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in line)


def parse_entry(line: bytes, node: str) -> Entry | None:
    """Return the entry in a line of `journalctl --output=json`, or None for any other line.

    journalctl writes text that is not UTF-8 as a list of bytes, and too long text as null.
    """
    try:
        found = json.loads(line)
        when = datetime.fromtimestamp(int(found["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return None
    fields = {name: _text(value) for name, value in found.items()}
    priority = fields.get("PRIORITY", "")
    return Entry(
        node=node, time=when, message=fields.get("MESSAGE", ""), identifier=fields.get("SYSLOG_IDENTIFIER", ""),
        pid=fields.get("_PID", ""), units=tuple(fields[name] for name in ("_SYSTEMD_UNIT", "UNIT") if fields.get(name)),
        priority=int(priority) if priority in set("01234567") else _INFO, cursor=fields.get("__CURSOR", ""),
    )  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, list):
        if all(isinstance(one, int) and 0 <= one < 256 for one in value):
            return bytes(value).decode(errors="replace")
        return _text(value[0]) if value else ""  # the entry has the field several times
    return "" if value is None else str(value)


@dataclass
class _Reader:
    """Reads new entries of one node. journal-copy.service writes entries again when it starts again."""

    node: str
    log: Console
    _rest: bytes = b""
    _seen: set[str] = field(default_factory=set)

    def read(self) -> Iterator[Entry]:
        *lines, self._rest = (self._rest + self.log.read()).split(b"\n")
        for entry in (parse_entry(line, self.node) for line in lines):
            if entry is not None and entry.cursor not in self._seen:
                self._seen.add(entry.cursor)
                yield entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries to show. `unit`: a unit's name or pattern, without suffix for a service; "" for all units.

    `since`: the time of the oldest entry. `lines`: how many of the entries so far, or None for all.
    """

    unit: str = ""
    since: datetime | None = None
    lines: int | None = None

    def fits(self, entry: Entry) -> bool:
        pattern = self.unit if "." in self.unit or not self.unit else f"{self.unit}.service"
        is_wanted = not pattern or any(fnmatchcase(unit, pattern) for unit in entry.units)
        return is_wanted and (self.since is None or entry.time >= self.since)


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the time of `10m`, `2h`, `1d` before now, or of a time in RFC 3339, by default in UTC.

    Raise InputError for any other text.
    """
    if found := _SPAN.fullmatch(text):
        return now - timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        rule = f"{text!r} is neither a time span nor a time"
        raise InputError.one("--since", rule, "give a span such as 10m, 2h or 1d, or 2026-11-30T04:00") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def entries(engine: Engine, names: Iterable[str], wanted: Wanted) -> Iterator[list[Entry]]:
    """Yield the entries so far, and then the new entries whenever the caller asks again, each time in order of time.

    Raise BakeError if a node has no machine.
    """
    readers = [_Reader(name, log) for name, log in _logs(engine, names).items()]
    found = _read(readers, wanted)
    yield found if wanted.lines is None else found[max(len(found) - wanted.lines, 0) :]
    while True:
        yield _read(readers, wanted)


def _logs(engine: Engine, names: Iterable[str]) -> Mapping[str, Console]:
    machines, names = engine.machines(), list(names)
    if missing := [name for name in names if name not in machines or not machines[name].exists]:
        known = ", ".join(name for name, one in machines.items() if one.exists) or "none"
        raise BakeError(f"{', '.join(missing)}: no VM", hint=f"the nodes with a VM: {known}")
    return engine.journals(*names)


def _read(readers: Iterable[_Reader], wanted: Wanted) -> list[Entry]:
    found = [entry for reader in readers for entry in reader.read() if wanted.fits(entry)]
    return sorted(found, key=lambda entry: entry.time)


def follow(
    batches: Iterator[list[Entry]], *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Entry]:
    """Yield entries until the caller stops. `batches`: as `entries` returns them."""
    for batch in batches:
        yield from batch
        if not batch:
            sleep(_POLL_SECONDS)
