"""Check that a history of reads and writes is linearizable, as etcd promises for its KV API ("KV API guarantees").

A history is linearizable if some order of its operations explains all answers, and no operation comes before one that
had ended when it began. A general checker searches for this order. etcd's answers already have it: each write has its
own revision, and each read has the revision at which it was served. So this checker only tests the order.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Op(NamedTuple):
    """An operation on one key. All writes have different values.

    `value`: the value written or read; None if the key did not exist. `revision`: from the header of etcd's answer, or
    None for a write without an answer, which may have happened at any time since. `begin`, `end`: seconds on one clock.
    """

    is_write: bool
    key: str
    value: str | None
    revision: int | None
    begin: float
    end: float


def flaws(history: Iterable[Op]) -> list[str]:
    """Return why a history is not linearizable; nothing if it is.

    A write without an answer must have one revision that explains all reads. That two such writes need different
    revisions is not checked.
    """
    history = list(history)
    return [*_order_flaws(history), *_value_flaws(history)]


def _order_flaws(history: list[Op]) -> Iterator[str]:
    """Compare the order of the revisions with the order in time."""
    answered = [op for op in history if op.revision is not None]
    writers: dict[int, Op] = {}
    for op in answered:
        if op.is_write and (other := writers.setdefault(op.revision or 0, op)) is not op:
            yield f"two writes have the revision {op.revision}: {op}, {other}"
    ended: list[tuple[float, int]] = []
    highest = 0  # the highest revision of an operation that had ended when the current operation began
    for op in sorted(answered, key=lambda op: op.begin):
        while ended and ended[0][0] < op.begin:
            highest = max(highest, heapq.heappop(ended)[1])
        revision = op.revision or 0
        if revision < highest + op.is_write:
            yield f"{'write' if op.is_write else 'stale read'} after an operation of revision {highest} had ended: {op}"
        heapq.heappush(ended, (op.end, revision))


def _value_flaws(history: list[Op]) -> Iterator[str]:
    """Compare each read with the last write before its revision."""
    known: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for op in history:
        if op.is_write and op.revision is not None:
            known[op.key].append((op.revision, op.value))
    for writes in known.values():
        writes.sort(key=lambda write: write[0])
    lost = {op.value: op for op in history if op.is_write and op.revision is None}
    answered = {value for writes in known.values() for _, value in writes}
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)  # for a write without an answer: where it must be
    closed: dict[str, list[tuple[int, int]]] = defaultdict(list)  # for a key: where no write without an answer can be
    for op in history:
        if op.is_write or op.revision is None:
            continue
        writes = known[op.key]
        place = bisect_right(writes, op.revision, key=lambda write: write[0])
        since, value = writes[place - 1] if place else (0, None)
        if op.value == value:
            closed[op.key].append((since, op.revision))
        elif op.value in lost and lost[op.value].begin <= op.end:
            seen[op.value or ""].append((since, op.revision))
        else:
            why = "an old value" if op.value in answered or op.value is None else "a value that nobody wrote"
            yield f"{why}, although {value!r} was written at revision {since}: {op}"
    for value, ranges in seen.items():
        low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
        key = lost[value].key
        if _is_covered(low, high, closed[key]):
            yield f"no revision explains the reads of {value!r}, whose write had no answer: {sorted(ranges)}"


def _is_covered(low: int, high: int, closed: list[tuple[int, int]]) -> bool:
    """Return whether the ranges cover each revision above `low` up to `high`. A range excludes its first revision."""
    for first, last in sorted(closed):
        if low >= high or first > low:
            break
        low = max(low, last)
    return low >= high
