"""Parsing a node's report. A manipulated report is refused, and its control characters are never printed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.etcd.answers import FilePermissions, NodeReport
from generator.etcd.node_report import LIMIT, parse_report

SAID: dict[str, Any] = {
    "format": 1,
    "node": "etcd1",
    "time": 1_767_323_045,
    "process": {"user": "etcd", "options": {"auto-tls": "true"}},
    "files": {"/etc/etcd/etcd.conf": {"mode": "0640", "owner": "root", "group": "etcd"}},
    "certificates": {"cert-file": ["ab12"]},
    "seed": "etcd1-0123456789abcdef",
}


def test_all_facts_of_a_report_are_parsed() -> None:
    assert parse_report(json.dumps(SAID).encode(), "etcd1") == NodeReport(
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        user="etcd",
        options={"auto-tls": "true"},
        files={"/etc/etcd/etcd.conf": FilePermissions(mode=0o640, owner="root", group="etcd")},
        certificates={"cert-file": ("ab12",)},
        seed="etcd1-0123456789abcdef",
    )


@pytest.mark.parametrize("change", [{}, {"seed": ""}])
def test_a_report_without_a_seed_is_accepted(change: dict[str, Any]) -> None:
    """Older nodes do not report their seed, and a node that must restart etcd does not yet run it."""
    fields = {name: value for name, value in SAID.items() if name != "seed"} | change
    assert parse_report(json.dumps(fields).encode(), "etcd1").seed == ""


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"node": "etcd2"}, {"time": "now"}, {"time": 1e300}, {"time": None}, {"files": []},
        {"files": {"/x": {"mode": "rw", "owner": "a", "group": "b"}}}, {"files": {"/x": {"mode": "0600"}}},
        {"certificates": {"cert-file": [1]}}, {"process": {"user": 0, "options": {}}}, {"process": {"user": "etcd"}},
        {"seed": "etcd2-0123456789abcdef"}, {"seed": "etcd1-0123456789ABCDEF"}, {"seed": "etcd1-0123"}, {"seed": None},
        {"seed": 0}, {"seed": []}, {"seed": "etcd1-0123456789abcdef\n"},
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_report_or_another_nodes_report_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse_report(json.dumps(SAID | change).encode(), "etcd1")


@pytest.mark.parametrize("process", [None, {}])
def test_a_report_without_a_running_etcd_is_refused(process: Any) -> None:
    with pytest.raises(ValueError, match="etcd was not running"):
        parse_report(json.dumps(SAID | {"process": process}).encode(), "etcd1")


def test_a_report_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_report(b"[" * (LIMIT + 1), "etcd1")


def test_control_characters_in_a_report_are_replaced() -> None:
    escape = {"process": {"user": "etcd", "options": {"auto-tls": "\x1b[2J\n" + "x" * 9999}}}
    text = parse_report(json.dumps(SAID | escape).encode(), "etcd1").options["auto-tls"]
    assert text.startswith("?[2J?xx")
    assert len(text) == 200


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from([*SAID, "mode", "owner", "x"]), x)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_data_is_a_report_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^its report"):
        parse_report(data, "etcd1")
