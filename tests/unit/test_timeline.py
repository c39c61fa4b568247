"""The boot timeline: computed from the console records, and drawn as SVG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.console_records import STARTED, Event, Journal
from generator.report.chart import DARK, PHASES, STYLE, draw, draw_part, duration
from generator.report.chart_text import fitting, text_width
from generator.report.timeline import Record, Timeline, make_timeline, parse_records
from tests.unit.contrast import contrast

Bake = Callable[..., Any]
SVG = "{http://www.w3.org/2000/svg}"
DAY = 86400.0


def records(node: str, *steps: tuple[float, str], start: float = 1000.0) -> list[Record]:
    """Return records of a boot that bake started, with the seconds since the start."""
    first = Record(time=start, node=node, phase="booting", detail=STARTED)
    return [first, *(Record(time=start + seconds, node=node, phase=phase) for seconds, phase in steps)]


def timeline(*found: Iterable[Record], nodes: Iterable[str] = ("etcd1", "etcd2", "etcd3")) -> Timeline:
    return make_timeline("etcd", nodes, sorted((one for each in found for one in each), key=lambda one: one.time))


WHOLE = ((30.0, "cloud-init"), (45.5, "joining"), (50.0, "voting"), (56.0, "settled"))


def test_a_boot_begins_when_bake_starts_the_vm_and_ends_when_the_node_has_settled() -> None:
    (boot,) = timeline(records("etcd1", *WHOLE, (500.0, "waiting"), (600.0, "voting"))).boots
    assert [span.phase for span in boot.spans] == ["booting", "cloud-init", "joining", "voting", "settled"]
    assert [span.begin - boot.begin for span in boot.spans] == [0, 30, 45.5, 50, 56]
    assert [span.end and span.end - boot.begin for span in boot.spans] == [30, 45.5, 50, 56, None]
    assert (boot.seconds, boot.has_settled, boot.has_failed) == (56, True, False)


def test_only_the_last_boot_counts() -> None:
    older = records("etcd1", *WHOLE)
    (boot,) = timeline(older, records("etcd1", (20.0, "cloud-init"), start=1000 + DAY)).boots
    assert [span.phase for span in boot.spans] == ["booting", "cloud-init"]
    assert (boot.begin, boot.has_settled) == (1000 + DAY, False)


def test_a_boot_that_bake_did_not_start_begins_with_the_nodes_first_record() -> None:
    again = [Record(time=5000, node="etcd1", phase="booting"), Record(time=5010, node="etcd1", phase="settled")]
    (boot,) = timeline(records("etcd1", *WHOLE), again).boots
    assert [(span.phase, span.begin) for span in boot.spans] == [("booting", 5000), ("settled", 5010)]


def test_a_second_run_of_bake_reads_the_last_record_again_and_starts_no_boot() -> None:
    read_again = [Record(time=3000, node="etcd1", phase="settled"), Record(time=3001, node="etcd1", phase="settled")]
    (boot,) = timeline(records("etcd1", *WHOLE), read_again).boots
    assert boot.seconds == 56
    interrupted = records("etcd1", (30.0, "cloud-init"))
    (boot,) = timeline(interrupted, [Record(time=2000, node="etcd1", phase="cloud-init")]).boots
    assert [span.begin for span in boot.spans] == [1000, 1030]


def test_boots_that_overlap_have_a_common_start_and_others_do_not() -> None:
    found = timeline(
        records("etcd1", *WHOLE), records("etcd2", *WHOLE, start=1001.5), records("etcd3", *WHOLE, start=1000 + DAY)
    )
    assert {boot.node: boot.offset for boot in found.boots} == {"etcd1": 0, "etcd2": 1.5, "etcd3": 0}
    assert [[boot.node for boot in group] for group in found.groups] == [["etcd1", "etcd2"], ["etcd3"]]
    assert found.seconds == 57.5


def test_a_clock_that_was_set_back_makes_no_negative_span() -> None:
    (boot,) = timeline([*records("etcd1", (9.0, "cloud-init")), Record(time=1, node="etcd1", phase="joining")]).boots
    assert all(span.end is None or span.end >= span.begin for span in boot.spans)


def test_a_node_without_a_record_is_silent_and_another_node_is_ignored() -> None:
    found = timeline(records("etcd1", *WHOLE), records("gone", *WHOLE), nodes=("etcd1", "etcd2"))
    assert ([boot.node for boot in found.boots], found.silent) == (["etcd1"], ("etcd2",))


def test_what_the_journal_writes_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep_start("etcd1", 1000.0)
    journal.keep_event(Event(node="etcd1", phase="settled", detail="é"), 1012.3456)
    assert list(parse_records((tmp_path / "events.ndjson").read_bytes())) == [
        Record(time=1000.0, node="etcd1", phase="booting", detail=STARTED),
        Record(time=1012.346, node="etcd1", phase="settled", detail="é"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"time": 1, "node": "etcd1", "ph', b"[" * 10_000, b"\xff\xfe", b"null", b'{"time": "x", "node": "a"}', b"{}",
        b'{"time": 1e999, "node": "a", "phase": "b", "detail": ""}',
        b'{"time": 1, "node": 5, "phase": "b", "detail": ""}',
    ],
    ids=lambda line: line[:20].decode(errors="replace"),
)  # fmt: skip
def test_a_broken_line_is_no_record(line: bytes) -> None:
    whole = b'{"time": 1, "node": "a", "phase": "b", "detail": ""}'
    assert [one.time for one in parse_records(b"\n".join((line, whole, line)))] == [1]


TEXT = st.text(max_size=40)
RECORDS = st.lists(
    st.builds(
        Record, time=st.floats(0, 1e9), node=st.sampled_from(["etcd1", "etcd2", "<b>"]),
        phase=st.one_of(st.sampled_from([*PHASES, "settled", "failed"]), TEXT),
        detail=st.one_of(st.just(STARTED), TEXT),
    ),
    max_size=30,
)  # fmt: skip


@given(RECORDS)
def test_any_records_make_a_timeline_and_a_chart(found: list[Record]) -> None:
    result = make_timeline('a"<&', ["etcd1", "etcd2", "<b>"], found)
    for boot in result.boots:
        assert boot.spans
        assert [span.end for span in boot.spans[:-1]] == [span.begin for span in boot.spans[1:]]
        assert all(earlier.begin <= later.begin for earlier, later in pairwise(boot.spans))
        assert boot.offset >= 0
    assert {boot.node for boot in result.boots} | set(result.silent) == {"etcd1", "etcd2", "<b>"}
    json.dumps(result.data)
    for text in (draw(result), draw_part(result, 340, name="small")):
        root = ElementTree.fromstring(text)  # noqa: S314  bake made it
        assert {element.tag for element in root.iter()} <= {
            f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "g", "rect", "text", "line", "circle", "path")
        }
        width = float(root.attrib["width"])
        assert all(-10 <= float(one.attrib["x"]) <= width for one in root.iter(f"{SVG}rect") if "x" in one.attrib)


def test_the_chart_has_a_title_and_a_description_for_screen_readers() -> None:
    root = ElementTree.fromstring(draw(timeline(records("etcd1", *WHOLE))))  # noqa: S314
    named = {element.attrib.get("id"): element.text for element in root.iter()}
    title, description = (named[name] for name in root.attrib["aria-labelledby"].split())
    assert title == "Boot timeline of etcd"
    assert description == (
        f"etcd1: booting 30.0 s ({STARTED}), cloud-init 15.5 s, joining 4.5 s, voting 6.0 s, settled after 56.0 s. "
        "etcd2: no record. etcd3: no record."
    )
    assert root.attrib["role"] == "img"


@pytest.mark.parametrize("style", [STYLE, STYLE + DARK], ids=["light", "dark"])
def test_text_in_the_chart_has_enough_contrast(style: str) -> None:
    """Each phase's name is on its colour, and each colour is on the chart's ground (WCAG 2.2, 1.4.3 and 1.4.11)."""
    colours = {
        name: colour
        for names, colour in re.findall(r"((?:\.tl-[a-z-]+,? ?)+)\{[^}]*fill: (#[0-9a-f]{6})", style)
        for name in re.findall(r"\.(tl-[a-z-]+)", names)
    }
    ground = colours["tl-ground"]
    for phase in (*PHASES, "other"):
        assert contrast(colours["tl-label"], colours[f"tl-{phase}"]) >= 4.5, phase
        assert contrast(colours[f"tl-{phase}"], ground) >= 3, phase
    for kind in ("tl-name", "tl-note"):
        assert contrast(colours[kind], ground) >= 4.5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (79.61, "79.6 s"), (725.9, "12 min 5 s"), (12000, "3 h 20 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text(), st.integers(20, 500))
def test_text_that_does_not_fit_keeps_its_ends(text: str, width: int) -> None:
    shown = fitting(text, 14, width)
    assert shown == text or (len(shown) < len(text) + 2 and "…" in shown)
    assert text_width(shown, 14) <= width or len(shown) <= 3


def test_the_command_prints_a_chart_or_data_and_asks_nobody(bake: Bake) -> None:
    bake("--nodes", 3)
    journal = Journal(Path("out/etcd"))
    for record in records("etcd2", *WHOLE):
        journal.keep_event(Event(node=record.node, phase=record.phase, detail=record.detail), record.time)
    result = bake("timeline")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("<svg ")
    data = json.loads(bake("timeline", "-o", "json").out)
    assert (data["cluster"], data["silent"], data["file"]) == ("etcd", ["etcd1", "etcd3"], None)
    (node,) = data["nodes"]
    assert (node["node"], node["begin"], node["seconds"], node["settled"]) == ("etcd2", 1000.0, 56.0, True)
    assert node["phases"][1] == {"phase": "cloud-init", "detail": "", "begin": 30.0, "end": 45.5}
    assert bake("timeline", "boot.svg").out == "boot.svg\n"
    assert Path("boot.svg").read_text() == result.out
    assert Path("boot.svg").stat().st_mode & 0o777 == 0o600
    assert bake("timeline", "boot.svg").code == 0, "a chart of bake is replaced"


def test_without_records_the_command_warns(bake: Bake) -> None:
    bake("--nodes", 1)
    result = bake("timeline", "-o", "json")
    assert result.code == 0
    assert json.loads(result.out)["diagnostics"][0]["severity"] == "warning"


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "no parent"])
def test_files_of_others_are_not_replaced(bake: Bake, kind: str) -> None:
    bake("--nodes", 1)
    target = Path("none/boot.svg" if kind == "no parent" else "boot.svg")
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    elif kind == "symlink":
        target.symlink_to("mine")
    result = bake("timeline", target)
    assert (result.code, "give another FILE" in result.err) == (2, True)
    assert kind != "file" or target.read_text() == "mine"
    expected = {"out"} if kind == "no parent" else {"out", "boot.svg"}
    assert {path.name for path in Path().iterdir()} == expected, "no unfinished file is left"
