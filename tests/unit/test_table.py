"""Tables that fit a terminal, and the tables of `bake audit`, `bake certs` and `bake status` with 80 and 120 columns.

`pytest --golden tests/unit/test_table.py` writes tests/golden/table again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.cli.output.certificate_rows import as_row
from generator.cli.output.table import _dropped, lines, print_table, wraps
from generator.etcd.answers import ClientKind, Port
from generator.health.cis_controls import audit_nodes
from generator.health.node_checks import NodeFacts
from generator.operations.audit import audit_rows
from generator.operations.certs import Entry
from generator.operations.status import MemberRole, NodeStatus, status_row
from generator.pki import Facts, Role
from tests import terminal
from tests.unit.test_controls import SERVED, good  # noqa: F401  the fixture of a hardened cluster

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/table"
Rows = list[dict[str, str]]


def compare(name: str, found: str, is_new: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    if is_new:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert path.read_text() == found


def text_of(rows: Rows, width: int | None, **settings: Any) -> str:
    found = list(lines(rows, width, **settings))
    assert width is None or max(map(len, found)) <= width
    return "\n".join(found) + "\n"


@pytest.fixture
def is_new(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--golden"))


@pytest.mark.parametrize("width", [80, 120, None])
def test_audit(good: list[NodeFacts], width: int | None, is_new: bool) -> None:  # noqa: F811
    """The second node has two faults, and the report of the first node is missing."""
    probes = {**good[1].probes, (Port.PEER, ClientKind.OPERATOR): SERVED, (Port.CLIENT, ClientKind.NO_TLS): SERVED}
    nodes = [replace(good[0], report=None, no_report="no report yet"), replace(good[1], probes=probes)]
    compare(f"audit-{width or 'wide'}", text_of(audit_rows(audit_nodes(nodes)), width, below="remedy"), is_new)


def entries() -> list[Entry]:
    begin = datetime(2026, 1, 2, tzinfo=UTC)

    def entry(owner: str, role: Role, days: int, *names: str) -> Entry:
        issuer = "CN=etcd-peer-ca,O=etcd" if role in (Role.PEER, Role.PEER_CA) else "CN=etcd-ca,O=etcd"
        facts = Facts(
            subject=f"CN={owner}", issuer=issuer, names=names, serial=f"{abs(days):040x}"[::-1], sha256="5e" * 32,
            not_before=begin, not_after=begin + timedelta(days=days),
        )  # fmt: skip
        return Entry(owner=owner, role=role, facts=facts, days_left=days, days=365, is_near=days < 30)

    found = [entry("cluster", Role.CA, 3648), entry("operator", Role.CLIENT, 12)]
    for number in (1, 2):
        names = (f"etcd{number}.etcd.internal", f"192.168.20.3{number}", "127.0.0.1", "::1")
        found += [
            entry(f"etcd{number}", Role.SERVER, 363, *names),
            entry(f"etcd{number}", Role.PEER, -3, "etcd.peers.etcd.internal", *names),
        ]
    return found


@pytest.mark.parametrize("width", [80, 120, None])
def test_certs(width: int | None, is_new: bool) -> None:
    rows = [as_row(entry, {"etcd1": False, "etcd2": None}, bars=width is not None) for entry in entries()]
    compare(f"certs-{width or 'wide'}", text_of(rows, width, drop=["serial", "issuer"]), is_new)


@pytest.mark.parametrize(("width", "expected"), [(60, True), (80, False), (None, False)])
def test_the_bar_would_wrap_only_on_a_narrow_terminal(width: int | None, expected: bool) -> None:
    rows = [as_row(entry, {}, bars=True) for entry in entries()]
    assert wraps(rows, width, "days left", drop=["serial", "issuer"]) is expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
@pytest.mark.parametrize(("columns", "has_bars"), [(60, False), (80, True)])
def test_certs_has_bars_if_the_terminal_has_room_for_them(tmp_path: Path, columns: int, has_bars: bool) -> None:
    bake, settings = [sys.executable, "-m", "generator.cli"], {"PYTHONPATH": str(ROOT)}
    subprocess.run([*bake, "-q", "--nodes", "1"], cwd=tmp_path, check=True, env=os.environ | settings)
    command = ["unshare", "--net", *bake, "certs"]  # no node of another cluster answers
    with terminal.Terminal(command, folder=tmp_path, columns=columns, env=settings) as here:
        assert here.ended() == 0
        assert ("█" in here.raw.decode()) is has_bars


@pytest.mark.parametrize("width", [80, 120, None])
def test_status(width: int | None, is_new: bool) -> None:
    alive = NodeStatus(
        name="etcd1", address="192.168.20.31", reachable=True, member_id="4bb3bf120cd9d667", role=MemberRole.LEADER,
        version="3.5.16", db_size=20480, raft_index=1234567,
    )  # fmt: skip
    error = "the certificate is not valid: certificate verify failed: certificate has expired"
    silent = NodeStatus(name="etcd2", address="192.168.20.32", reachable=False, error=error)
    rows = [status_row(alive, "running kvm"), status_row(silent, None)]
    compare(f"status-{width or 'wide'}", text_of(rows, width, drop=["id", "raft index", "vm"]), is_new)


@pytest.mark.parametrize("width", [None, 30])
def test_a_table_that_fits_is_the_same_on_a_terminal_and_in_a_pipe(width: int | None) -> None:
    rows = [{"node": "etcd1", "what it is": "a  b"}, {"node": "x", "what it is": ""}]
    assert list(lines(rows, width)) == ["NODE   WHAT IT IS", "etcd1  a  b", "x"]


@pytest.mark.parametrize("width", [None, 18, 80])
def test_a_column_without_a_name_holds_signs(width: int | None) -> None:
    rows = [{"": "+", "node": "etcd4", "step": "add"}, {"": "", "node": "etcd1", "step": "update it"}]
    found = [*lines(rows, width)]
    assert found[0].split() == ["NODE", "STEP"]
    assert found[1].split() == ["+", "etcd4", "add"]
    assert [*lines([{"": "", "node": "etcd1"}], 5)]


def test_no_rows_are_no_table() -> None:
    assert list(lines([], 10)) == []


def test_only_rows_with_a_remedy_are_below_the_table() -> None:
    rows = [{"id": "1", "state": "passed", "remedy": ""}, {"id": "2", "state": "failed", "remedy": "do that and this"}]
    assert list(lines(rows, 15, below="remedy")) == [
        "ID  STATE", "1   passed", "2   failed", "", "ID  REMEDY", "2   do that and", "    this",
    ]  # fmt: skip
    assert list(lines(rows[:1], 12, below="remedy")) == ["ID  STATE", "1   passed"]


def test_rows_with_the_same_remedy_share_a_line() -> None:
    rows = [{"id": f"2.{number}", "remedy": "attach its seed" * (number != 2)} for number in (1, 2, 3)]
    assert list(lines(rows, 19, below="remedy"))[-3:] == ["ID        REMEDY", "2.1, 2.3  attach", "          its seed"]


def test_columns_are_left_out_only_if_words_would_be_broken() -> None:
    rows = [{"a": "one two three", "b": "0123456789", "c": "0123456789"}]
    assert _dropped(rows, 29, ["c", "b"], "") == []
    assert _dropped(rows, 28, ["c", "b"], "") == ["c"]
    assert _dropped(rows, 16, ["c", "b"], "") == ["c", "b"]
    assert list(lines(rows, 5, drop=["c", "b"])) == ["A", "one", "two", "three"]


WORDS = st.text(st.sampled_from("abc -/"), max_size=40)


@given(st.lists(st.fixed_dictionaries({"one": WORDS, "two": WORDS, "three": WORDS}), min_size=1), st.integers(9, 200))
def test_no_character_is_lost_and_no_line_is_too_long(rows: Rows, width: int) -> None:
    found = list(lines(rows, width))
    assert max(map(len, found)) <= width
    for letter in "abc-/":
        wanted = sum(text.count(letter) for row in rows for text in row.values())
        heads = "".join(found).replace("\n", "")
        assert heads.count(letter) == wanted


# --- the command line -------------------------------------------------------------------------------------------


def test_a_pipe_gets_one_line_for_each_row_whatever_the_width(
    bake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bake("--nodes", 2)
    wide = bake("certs").out
    monkeypatch.setenv("COLUMNS", "40")
    assert bake("certs").out == wide
    assert len(wide.splitlines()) == len({line.split()[0] + line.split()[1] for line in wide.splitlines()}) == 10


def test_a_terminal_gets_a_table_that_fits_and_all_columns_with_wide(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "generator.cli", *words]
        with terminal.Terminal(command, folder=tmp_path, columns=80, env={"PYTHONPATH": str(ROOT)}) as here:
            assert here.ended() == 0
            return here.raw.decode()

    run("--nodes", "1")
    fitting, wide = run("certs"), run("certs", "--wide")
    assert max(map(len, fitting.splitlines())) <= 80
    assert ("ISSUER" in fitting, "ISSUER" in wide) == (False, True)
    assert "left out: serial, issuer; to see all columns, add --wide" in fitting
    assert "left out" not in wide
    assert max(map(len, wide.splitlines())) > 80


def test_wide_prints_every_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    rows = [{"a": "x" * 15, "b": "y" * 15}]
    print_table(rows, drop=["b"])
    assert capsys.readouterr() == (f"A\n{'x' * 15}\n", "left out: b; to see all columns, add --wide\n")
    print_table(rows, drop=["b"], wide=True)
    assert capsys.readouterr() == (f"A{' ' * 16}B\n{'x' * 15}  {'y' * 15}\n", "")
