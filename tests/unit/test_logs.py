"""`bake logs`: entries of the nodes' journals, in order of time, each only once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.errors import BakeError, InputError
from generator.operations.inside.logs import Entry, Wanted, entries, follow, parse_entry, parse_since

NOW = datetime(2026, 11, 30, 4, 0, tzinfo=UTC)


def line(seconds: float = 0, message: object = "hello", **fields: Any) -> bytes:
    stamp = str(int((NOW + timedelta(seconds=seconds)).timestamp() * 1e6))
    values = {"MESSAGE": message, "__REALTIME_TIMESTAMP": stamp, "__CURSOR": f"c{seconds}{message}", **fields}
    return json.dumps(values).encode() + b"\n"


class Log:
    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)

    def read(self) -> bytes:
        return self.parts.pop(0) if self.parts else b""


@pytest.fixture
def read() -> Callable[..., list[list[Entry]]]:
    """Return `read({"etcd1": Log(…)}, unit="etcd")`: the first batches of entries."""

    def run(logs: dict[str, Log], *, batches: int = 1, **wanted: Any) -> list[list[Entry]]:
        machines = {name: SimpleNamespace(exists=True) for name in logs}
        engine: Any = SimpleNamespace(machines=lambda: machines, journals=lambda *names: {n: logs[n] for n in names})
        return list(islice(entries(engine, list(logs), Wanted(**wanted)), batches))

    return run


def test_an_entry_is_shown_as_journalctl_does() -> None:
    found = parse_entry(line(1.5, SYSLOG_IDENTIFIER="etcd-join", _PID="12", PRIORITY="3"), "etcd2")
    assert found is not None
    assert found.text == "2026-11-30T04:00:01.500Z etcd2 etcd-join[12]: hello"
    assert found.priority == 3


def test_a_message_of_etcd_is_shown_as_text() -> None:
    message = json.dumps({"level": "warn", "ts": "x", "caller": "y", "msg": "slow", "took": "2s"})
    found = parse_entry(line(message=message, SYSLOG_IDENTIFIER="etcd"), "n")
    assert found is not None
    assert found.text.endswith("n etcd: warn: slow took=2s")
    assert found.data["message"] == message


def test_a_message_cannot_send_commands_to_the_terminal() -> None:
    found = parse_entry(line(message="a\x1b[2Jb\nfake: line"), "n")
    assert found is not None
    assert found.text.splitlines() == ["2026-11-30T04:00:00.000Z n : a?[2Jb", "    fake: line"]


@pytest.mark.parametrize(
    ("message", "expected"), [([104, 105], "hi"), (None, ""), (["one", "two"], "one"), ([], ""), ([255], "\ufffd")]
)
def test_a_message_that_is_no_text_is_decoded(message: object, expected: str) -> None:
    found = parse_entry(line(message=message), "n")
    assert found is not None
    assert found.message == expected


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner))


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_an_entry_or_nothing(text: bytes) -> None:
    assert parse_entry(text, "n") is None


def test_entries_of_all_nodes_are_in_order_of_time(read: Callable[..., list[list[Entry]]]) -> None:
    (found,) = read({"etcd1": Log(line(1) + line(3)), "etcd2": Log(line(2))})
    assert [(one.node, one.time.second) for one in found] == [("etcd1", 1), ("etcd2", 2), ("etcd1", 3)]


def test_entries_that_are_written_again_are_shown_once(read: Callable[..., list[list[Entry]]]) -> None:
    """The copy begins with this boot's first entry whenever its service starts."""
    first, second = read({"etcd1": Log(line(1) + line(2)[:9], line(2)[9:] + line(1) + line(3))}, batches=2)
    assert [one.time.second for one in first] == [1]
    assert [one.time.second for one in second] == [2, 3]


def test_the_entries_of_a_unit_are_also_those_that_systemd_writes_about_it(
    read: Callable[..., list[list[Entry]]],
) -> None:
    log = line(1, _SYSTEMD_UNIT="etcd.service") + line(2, _SYSTEMD_UNIT="init.scope", UNIT="etcd.service") + line(3)
    log += line(4, _SYSTEMD_UNIT="etcd-promote.service")
    assert [one.time.second for one in read({"n": Log(log)}, unit="etcd")[0]] == [1, 2]
    assert [one.time.second for one in read({"n": Log(log)}, unit="etcd*")[0]] == [1, 2, 4]
    assert [one.time.second for one in read({"n": Log(log)}, since=NOW + timedelta(seconds=3))[0]] == [3, 4]


@pytest.mark.parametrize(("lines", "shown"), [(2, [2, 3]), (0, []), (9, [1, 2, 3]), (None, [1, 2, 3])])
def test_only_the_last_lines(lines: int | None, shown: list[int], read: Callable[..., list[list[Entry]]]) -> None:
    assert [one.time.second for one in read({"n": Log(line(1) + line(2) + line(3))}, lines=lines)[0]] == shown


def test_following_waits_only_when_there_is_nothing_new() -> None:
    waits: list[float] = []
    batches = [[Entry(node="n", time=NOW, message=text)] if text else [] for text in ("a", "", "b", "")]
    assert [one.message for one in follow(iter(batches), sleep=waits.append)] == ["a", "b"]
    assert len(waits) == 2


def test_a_node_without_a_vm_is_an_error() -> None:
    engine: Any = SimpleNamespace(machines=lambda: {"etcd1": SimpleNamespace(exists=True)})
    with pytest.raises(BakeError, match="etcd2: no VM") as error:
        next(entries(engine, ["etcd1", "etcd2"], Wanted()))
    assert error.value.hint == "the nodes with a VM: etcd1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("2d", NOW - timedelta(days=2)),
        ("2026-11-30T03:59:00", NOW - timedelta(minutes=1)),
        ("2026-11-30T04:59:00+01:00", NOW - timedelta(minutes=1)),
    ],
)
def test_since_is_a_span_or_a_time(text: str, expected: datetime) -> None:
    assert parse_since(text, now=NOW) == expected


def test_any_other_since_is_refused() -> None:
    with pytest.raises(InputError) as error:
        parse_since("yesterday", now=NOW)
    assert "--since: 'yesterday' is neither a time span nor a time" in str(error.value.problems[0])
