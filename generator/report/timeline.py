"""Compute the boot timeline of each node from the console records in `events.ndjson`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from generator.console_records import STARTED
from generator.progress import PHASES

BOOTING, SETTLED = PHASES[0], PHASES[-1]
FAILED = "failed"
_FIRST_PHASES = (BOOTING, PHASES[1])  # with these phases, a boot begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A console record, with the time at which bake read it. `time`: seconds since 1970."""

    time: float
    node: str
    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time from one record to the next. Times in seconds since 1970; `end` is None for the last record."""

    phase: str
    detail: str
    begin: float
    end: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """The last boot of a node. The spans have no gaps and are in order of time; at least one.

    `offset`: seconds from the start of the first node that booted at the same time to the start of this node.
    """

    node: str
    spans: tuple[Span, ...]
    offset: float = 0.0

    @property
    def begin(self) -> float:
        return self.spans[0].begin

    @property
    def last(self) -> Span:
        return self.spans[-1]

    @property
    def seconds(self) -> float:
        """From the start to the last record."""
        return self.last.begin - self.begin

    @property
    def has_settled(self) -> bool:
        return self.last.phase == SETTLED

    @property
    def has_failed(self) -> bool:
        return self.last.phase == FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The last boot of each node, in the order of the nodes. `silent`: nodes without a record."""

    cluster: str
    boots: tuple[Boot, ...]
    silent: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[tuple[Boot, ...], ...]:
        """The boots that overlap, together; the oldest group first."""
        begins = sorted({boot.begin - boot.offset for boot in self.boots})
        return tuple(tuple(boot for boot in self.boots if boot.begin - boot.offset == begin) for begin in begins)

    @property
    def seconds(self) -> float:
        """The longest time from the start of a group to its last record."""
        return max((boot.offset + boot.seconds for boot in self.boots), default=0.0)

    @property
    def data(self) -> list[dict[str, Any]]:
        """The boots for `-o json`. Times in seconds since the node's start, and `begin` in seconds since 1970."""
        return [
            {
                "node": boot.node, "begin": round(boot.begin, 3), "offset": round(boot.offset, 3),
                "seconds": round(boot.seconds, 3), "settled": boot.has_settled, "failed": boot.has_failed,
                "phases": [
                    {
                        "phase": span.phase, "detail": span.detail, "begin": round(span.begin - boot.begin, 3),
                        "end": None if span.end is None else round(span.end - boot.begin, 3),
                    }
                    for span in boot.spans
                ],
            }
            for boot in self.boots
        ]  # fmt: skip


def parse_records(raw: bytes) -> Iterator[Record]:
    """Yield the records in `events.ndjson`. A line that bake could not write to its end is not a record."""
    for line in raw.splitlines():
        try:
            found = json.loads(line)
            values = {name: found[name] for name in ("node", "phase", "detail")}
            when = float(found["time"])
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
            continue
        if all(isinstance(value, str) for value in values.values()) and 0 <= when < 2**40:
            yield Record(time=when, **values)


def make_timeline(cluster: str, nodes: Iterable[str], records: Iterable[Record]) -> Timeline:
    """Return the last boot of each node in `nodes`."""
    by_node: dict[str, list[Record]] = {name: [] for name in nodes}
    for record in records:
        if record.node in by_node:
            by_node[record.node].append(record)
    boots = [Boot(node=name, spans=_spans(_last_boot(found))) for name, found in by_node.items() if found]
    silent = tuple(name for name, found in by_node.items() if not found)
    return Timeline(cluster=cluster, boots=_with_offsets(boots), silent=silent)


def _last_boot(records: Iterable[Record]) -> list[Record]:
    """Return the records of a node's last boot, which ends when the node has settled.

    Another run of bake may read the last record again, so the second of two equal records does not count.
    """
    boot: list[Record] = []
    for record in records:
        if boot and (record.phase, record.detail) == (boot[-1].phase, boot[-1].detail) and not _is_start(record):
            continue
        has_begun = any(one.phase not in (BOOTING, record.phase) for one in boot)
        if _is_start(record) or (record.phase in _FIRST_PHASES and has_begun):
            boot = []
        if not boot or boot[-1].phase != SETTLED:
            boot.append(record)
    return boot


def _is_start(record: Record) -> bool:
    return (record.phase, record.detail) == (BOOTING, STARTED)


def _spans(boot: list[Record]) -> tuple[Span, ...]:
    """Return the spans of a boot. A clock that was set back makes no negative span."""
    times: list[float] = []
    for record in boot:
        times.append(max(record.time, *times[-1:]) if times else record.time)
    ends = [*times[1:], None]
    return tuple(
        Span(phase=record.phase, detail=record.detail, begin=begin, end=end)
        for record, begin, end in zip(boot, times, ends, strict=True)
    )


def _with_offsets(boots: list[Boot]) -> tuple[Boot, ...]:
    """Set the offset of each boot. Boots that overlap, directly or through others, have a common start."""
    starts: dict[str, float] = {}
    start = end = float("-inf")
    for boot in sorted(boots, key=lambda one: one.begin):
        if boot.begin > end:
            start = boot.begin
        end = max(end, boot.last.begin)
        starts[boot.node] = start
    return tuple(replace(boot, offset=boot.begin - starts[boot.node]) for boot in boots)
