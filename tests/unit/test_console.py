"""The records on a console are found in any other output, and the whole console is saved."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.console_records import Event, Failures, Journal, LineReader, follow, parse_line
from generator.errors import BakeError, WaitTimeoutError

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
PHASE = st.sampled_from(["cloud-init", "configured", "joining", "learner", "voting", "waiting", "failed"])
DETAIL = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"'), max_size=60
)
NOISE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30).filter(
    lambda text: "bake:" not in text and "Kernel panic" not in text and "emergency" not in text
)


def record(event: Event) -> str:
    detail = f' detail="{event.detail}"' if event.detail else ""
    return f"bake: node={event.node} phase={event.phase}{detail}"


EVENT = st.builds(Event, node=LABEL, phase=PHASE, detail=DETAIL)


@given(
    EVENT,
    st.sampled_from(["", "[   12.345678] ", "[   60.1] etcd-join[512]: ", "etcd1 etcd-join[9]: ", "\x1b[0m"]),
)
def test_a_record_is_parsed_after_any_prefix(event: Event, prefix: str) -> None:
    assert parse_line(prefix + record(event), event.node) == [event]


@given(st.lists(EVENT.map(lambda e: Event(node="n1", phase=e.phase, detail=e.detail)), max_size=8), st.data())
def test_a_record_may_be_split_at_any_byte(events: list[Event], data: st.DataObject) -> None:
    stream = "".join(f"{record(event)}\r\n" for event in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, found = LineReader("n1"), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == events


@given(NOISE)
def test_other_output_is_not_an_event(noise: str) -> None:
    assert parse_line(noise, "n1") == []


@given(st.binary(max_size=300))
def test_the_reader_accepts_any_bytes(data: bytes) -> None:
    for event in LineReader("n1").feed(data + b"\n"):
        assert event.node == "n1"


@given(EVENT, st.integers(0, 200))
def test_a_cut_record_never_gives_another_phase(event: Event, length: int) -> None:
    for found in parse_line(record(event)[:length], event.node):
        assert event.phase.startswith(found.phase)
        assert event.detail.startswith(found.detail)


@pytest.mark.parametrize(
    "line",
    [
        "bake: node=n2 phase=voting",  # a record of another node
        "bake: node=n1 phase=Voting",
        "bake: node=n1 phase=vot[   61.2] random: crng init done",  # kernel output within the record
        "bake: node=n1",
        "ake: node=n1 phase=voting",
        "bake: node=n1phase=voting",
    ],
)
def test_an_incomplete_or_invalid_record_is_ignored(line: str) -> None:
    assert parse_line(line, "n1") == []


def test_two_records_on_one_line_are_two_events() -> None:
    line = 'bake: node=n1 phase=joining detail="asks n2"bake: node=n1 phase=learner'
    assert [event.phase for event in parse_line(line, "n1")] == ["joining", "learner"]


@pytest.mark.parametrize(
    "text",
    [
        "Kernel panic - not syncing: no root",
        "You are in emergency mode. After",
        "No bootable option or device was found.",
    ],
)
def test_a_kernel_panic_or_emergency_mode_is_a_failure(text: str) -> None:
    (event,) = parse_line(f"[    9.1] {text}", "n1")
    assert (event.phase, event.detail) == ("failed", text)


class Script:
    """A console that returns one piece per read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: Iterator[bytes] = iter(pieces)

    def read(self) -> bytes:
        return next(self.pieces, b"")


class Clock:
    """A clock that advances only when `sleep` is called."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_follow_yields_the_events_of_all_nodes_and_saves_the_consoles(tmp_path: Path) -> None:
    clock = Clock()
    sources = {
        "n1": Script(b"Linux\nbake: node=n1 pha", b"", b"se=joining\n"),
        "n2": Script(b'bake: node=n2 phase=waiting detail="quorum"\n'),
    }
    events = follow(sources, Journal(tmp_path), timeout=10, clock=clock, sleep=clock.sleep)
    assert [next(events), next(events)] == [
        Event(node="n2", phase="waiting", detail="quorum"),
        Event(node="n1", phase="joining"),
    ]
    assert (tmp_path / "n1/console.log").read_bytes() == b"Linux\nbake: node=n1 phase=joining\n"
    records = [json.loads(line) for line in (tmp_path / "events.ndjson").read_text().splitlines()]
    assert [(r["node"], r["phase"], r["detail"]) for r in records] == [
        ("n2", "waiting", "quorum"),
        ("n1", "joining", ""),
    ]
    for path in (tmp_path / "n1/console.log", tmp_path / "events.ndjson"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- earlier records of a node ------------------------------------------------------------------------------


def begin(tmp_path: Path, *pieces: bytes, timeout: float = 100) -> tuple[Iterator[Event], Clock]:
    clock = Clock()
    source = {"n1": Script(*pieces)}
    return follow(source, Journal(tmp_path), timeout=timeout, clock=clock, sleep=clock.sleep), clock


def said(*phases: str) -> bytes:
    return "".join(f"bake: node=n1 phase={phase}\n" for phase in phases).encode()


def test_of_earlier_records_only_the_last_record_counts(tmp_path: Path) -> None:
    before = said("cloud-init", "failed", "joining", "voting", "settled seed=n1-0a")
    events, clock = begin(tmp_path, before, b"", said("booting"))
    assert next(events) == Event(node="n1", phase="settled", seed="n1-0a")
    assert clock.now == 1000
    assert next(events).phase == "booting"
    assert (tmp_path / "n1/console.log").read_bytes() == before + said("booting")
    assert len((tmp_path / "events.ndjson").read_text().splitlines()) == 2


def test_earlier_records_of_a_node_that_boots_again_are_ignored(tmp_path: Path) -> None:
    events, _ = begin(tmp_path, said("voting", "settled", "booting"), said("voting"))
    assert [next(events).phase, next(events).phase] == ["booting", "voting"]


def test_an_earlier_failure_followed_by_a_newer_record_is_not_an_event(tmp_path: Path) -> None:
    events, _ = begin(tmp_path, said("failed"), b"", b"", said("voting"))
    assert next(events).phase == "voting"
    with pytest.raises(WaitTimeoutError, match="n1: voting"):
        next(events)


def test_an_earlier_failure_without_a_newer_record_counts_after_30_seconds(tmp_path: Path) -> None:
    events, clock = begin(tmp_path, b'bake: node=n1 phase=failed detail="was removed"\n')
    assert next(events) == Event(node="n1", phase="failed", detail="was removed")
    assert 1030 <= clock.now <= 1031
    with pytest.raises(WaitTimeoutError):
        next(events)


def test_nodes_without_records_are_queried_after_30_seconds(tmp_path: Path) -> None:
    clock, asked = Clock(), []

    def ask(nodes: list[str]) -> list[Event]:
        asked.append((clock.now, nodes))
        return [Event(node="n2", phase="settled")] if len(asked) == 2 else []

    sources = {"n1": Script(said("joining")), "n2": Script()}
    events = follow(sources, Journal(tmp_path), timeout=100, ask=ask, clock=clock, sleep=clock.sleep)
    assert [next(events).phase, next(events)] == ["joining", Event(node="n2", phase="settled")]
    assert [nodes for _, nodes in asked] == [["n2"], ["n2"]]
    assert asked[0][0] >= 1030
    with pytest.raises(WaitTimeoutError):
        next(events)
    assert len(asked) == 2, "the member list is read only while a console is empty"


def test_a_new_failure_counts_at_once(tmp_path: Path) -> None:
    events, clock = begin(tmp_path, said("settled"), said("failed"))
    assert [next(events).phase, next(events).phase] == ["settled", "failed"]
    assert clock.now == 1000


@pytest.mark.parametrize(
    ("rest", "seed", "detail"),
    [
        ("settled seed=n1-0123456789abcdef", "n1-0123456789abcdef", ""),
        ('settled seed=n1-01 detail="new certificates applied"', "n1-01", "new certificates applied"),
        ("settled", "", ""),
        ("settled seed=n1-\x1b[0m", "n1-", ""),
        ('settled seed=N1 detail="x"', "", ""),
    ],
)
def test_a_record_may_name_the_applied_seed(rest: str, seed: str, detail: str) -> None:
    (event,) = parse_line(f"bake: node=n1 phase={rest}", "n1")
    assert event == Event(node="n1", phase="settled", detail=detail, seed=seed)


def test_a_timeout_reports_the_last_phase_of_each_node(tmp_path: Path) -> None:
    clock = Clock()
    sources = {"n1": Script(b"bake: node=n1 phase=learner\n"), "n2": Script()}
    events = follow(sources, Journal(tmp_path), timeout=5, clock=clock, sleep=clock.sleep)
    assert next(events).phase == "learner"
    with pytest.raises(
        WaitTimeoutError, match=re.escape("after 5 s; the nodes' last reports: n1: learner, n2: nothing")
    ):
        next(events)
    assert clock.now == pytest.approx(1005, abs=0.5)


def test_a_stopped_vm_is_reported_as_failed_once(tmp_path: Path) -> None:
    clock = Clock()
    events = follow(
        {"n1": Script()},
        Journal(tmp_path),
        timeout=20,
        health=lambda: {"n1": "its VM crashed"},
        clock=clock,
        sleep=clock.sleep,
    )
    assert next(events) == Event(node="n1", phase="failed", detail="its VM crashed")
    with pytest.raises(WaitTimeoutError):
        next(events)


def test_the_tail_is_readable_text(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep_output("n1", b"one\r\n\r\n\x1b[0;32mtwo\x1b[0m\x07\r\nthr\xffee")
    assert journal.tail("n1", 2) == ["two", "thr\N{REPLACEMENT CHARACTER}ee"]
    assert journal.tail("n2") == []


def test_a_log_that_is_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1/console.log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        Journal(tmp_path).keep_output("n1", b"x")
    assert not target.exists()


def failing(node: str = "etcd1", detail: str = "bad flag") -> Event:
    return Event(node=node, phase="failing", detail=detail)


def test_etcd_that_fails_again_and_again_for_the_same_reason_is_an_error() -> None:
    failures = Failures(lambda node: f"bake logs {node}")
    for _ in range(4):
        failures.add(failing())
        failures.add(failing("etcd2"))
        failures.add(Event(node="etcd1", phase="joining"))
    with pytest.raises(BakeError, match="etcd1: etcd does not start: bad flag") as error:
        failures.add(failing())
    assert error.value.hint == "see bake logs etcd1"


def test_a_node_that_joins_after_failures_begins_again() -> None:
    failures = Failures(str)
    for _ in range(3):
        for _ in range(4):
            failures.add(failing())
        failures.add(Event(node="etcd1", phase="learner"))
    for number in range(9):
        failures.add(failing(detail=f"reason {number}"))


def test_a_timeout_names_the_reason_why_a_node_waits(tmp_path: Path) -> None:
    events, _ = begin(tmp_path, b"", b'bake: node=n1 phase=failing detail="bad flag"\n', timeout=1)
    with pytest.raises(WaitTimeoutError, match=r"n1: failing \(bad flag\)"):
        list(events)


def test_a_hint_names_only_consoles_that_printed_something(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.where(["etcd1", "etcd2"]).startswith("the VMs have printed nothing; check that the image has a boot")
    journal.keep_output("etcd2", b"hello")
    assert journal.where(["etcd1", "etcd2"]) == f"see the nodes' consoles: {tmp_path}/etcd2/console.log"
