"""The live table of `bake status --watch`: what it shows of the nodes' answers, and when bake refuses it.

tests/assembly/test_watch.py watches real members on a pseudo-terminal.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from generator.cli.output.watch import Picture
from generator.etcd.answers import Alarm, Answer, Status
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.certs import Entry
from generator.operations.running.watch import Sample, View, alarms_in, next_to_expire, view_of
from generator.operations.seal import seal_files
from generator.operations.status import MemberRole, Task, size_text
from generator.pki import Role
from generator.plan import ClusterPlan
from generator.store.folder import Store
from tests import terminal
from tests.unit.test_verify import member
from tests.unit.test_verify import status as etcd_status

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def three(plan: Callable[..., ClusterPlan]) -> ClusterPlan:
    return plan(nodes=3, firewall={"kind": "none"})


def sampled(plan: ClusterPlan, **changes: Any) -> dict[str, Sample]:
    """Return samples in which every node answers. `changes`: for a node's name, another status, or an error."""
    members = tuple(member(node, number) for number, node in enumerate(plan.nodes, 1))
    found = {}
    for number, node in enumerate(plan.nodes, 1):
        given = changes.get(node.name, etcd_status(number))
        if isinstance(given, Status):
            found[node.name] = Sample(round=7, status=Answer(given), members=members)
        else:
            found[node.name] = Sample(round=7, status=Answer(error=given), since=100.0)
    return found


def viewed(plan: ClusterPlan, **changes: Any) -> View:
    return view_of(plan, sampled(plan, **changes), {7: 20}, time=112.0)


def test_before_the_first_answer_every_node_has_a_row(three: ClusterPlan) -> None:
    view = view_of(three, {}, {})
    assert [(row.node.name, row.asked, row.node.reachable) for row in view.rows] == [
        ("etcd1", False, False), ("etcd2", False, False), ("etcd3", False, False),
    ]  # fmt: skip
    assert (view.complete, view.answering, view.leader, view.alarms) == (False, 0, None, ())


def test_the_rows_have_roles_and_the_lag_of_the_same_round(three: ClusterPlan) -> None:
    view = viewed(three, etcd2=etcd_status(2, raft_index=20), etcd3=etcd_status(3, raft_index=25, is_learner=True))
    assert [row.node.role for row in view.rows] == [MemberRole.LEADER, MemberRole.VOTER, MemberRole.LEARNER]
    assert [row.lag for row in view.rows] == [12, 0, 0]
    assert (view.complete, view.answering, view.leader) == (True, 3, "etcd1")


def test_the_lag_of_a_round_without_a_newest_entry_is_unknown(three: ClusterPlan) -> None:
    assert [row.lag for row in view_of(three, sampled(three), {6: 30}).rows] == [None] * 3


def test_a_silent_node_keeps_its_role_from_the_list_of_the_others(three: ClusterPlan) -> None:
    row = viewed(three, etcd2="connection refused").rows[1]
    assert (row.node.reachable, row.node.role, row.node.error) == (False, MemberRole.VOTER, "connection refused")
    assert (row.lag, row.silent) == (None, 12.0)


def test_the_list_of_a_node_that_knows_a_leader_counts(three: ClusterPlan) -> None:
    found = sampled(three, etcd2=etcd_status(2, leader=0))
    old = replace(found["etcd2"], round=9, members=found["etcd2"].members[:1])
    assert len(view_of(three, {**found, "etcd2": old}, {}).members) == 3
    assert len(view_of(three, {"etcd2": old}, {}).members) == 1


def test_a_member_outside_the_plan_has_the_last_row(three: ClusterPlan) -> None:
    evil = replace(member(three.nodes[0], 255), name="", peer_urls=("https://192.0.2.1:2380",), is_learner=True)
    samples = {name: replace(one, members=(evil, *one.members)) for name, one in sampled(three).items()}
    view = view_of(three, samples, {})
    last = view.rows[-1]
    assert (len(view.rows), last.node.name, last.node.role, last.planned) == (4, "(not started)", "learner", False)
    assert len(view.status.nodes) == 3


def test_alarms_come_from_the_status_and_are_no_errors(three: ClusterPlan) -> None:
    texts = ("memberID:2 alarm:NOSPACE ", "etcdserver: no leader")
    view = viewed(three, etcd1=etcd_status(1, errors=texts), etcd3=etcd_status(3, errors=texts[:1]))
    assert view.alarms == (Alarm(member_id=2, kind="NOSPACE"),)
    assert [row.node.error for row in view.rows] == ["etcdserver: no leader", None, None]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("memberID:1 alarm:CORRUPT ", [Alarm(member_id=1, kind="CORRUPT")]),
        ("memberID:1 alarm:NONE", []),
        ("memberID:1 alarm:NEW", []),
        ("etcdserver: no leader", []),
    ],
)
def test_an_alarm_in_a_text(text: str, found: list[Alarm]) -> None:
    assert alarms_in(text) == found


# --- the picture ------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, three: ClusterPlan, now: datetime) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    make(three.spec, store, now=now, report=print)
    return open_cluster(store)


def entry(owner: str, role: Role, days: int) -> Entry:
    return Entry(owner=owner, role=role, facts=Any, days_left=days, days=365, is_near=days < 30)  # type: ignore[arg-type]


def drawn(
    cluster: Cluster, view: View, *certificates: Entry, width: int = 80, start: Task | None = None
) -> str:
    from rich.console import Console

    stream = io.StringIO()
    picture = Picture(cluster, 2.0, lambda: start, {one.owner: one for one in certificates})
    Console(file=stream, width=width).print(picture.parts(view, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_the_picture_of_three_members(cluster: Cluster, now: datetime) -> None:
    seal_files(cluster.store, cluster.plan, now=now, report=print)
    certificates = [
        entry("etcd1", Role.SERVER, 363), entry("etcd2", Role.PEER, 29), entry("operator", Role.CLIENT, 30),
    ]  # fmt: skip
    big = etcd_status(1, db_size=25 << 20, db_size_in_use=3 << 20, raft_index=20, revision=1234567)
    view = viewed(cluster.plan, etcd1=big, etcd3="no answer in time")
    assert drawn(cluster, view, *certificates) == """\
etcd  03:04:05, every 2 s; q ends

NODE   STATE        REVISION        DB   IN USE  LAG   CERT
etcd1  leader        1234567  25.0 MiB  3.0 MiB    0  363 d
etcd2  voter               3     2 KiB    0 KiB   12   29 d
etcd3  unreachable         -         -        -    -      -  no answer in time,
                                                             for 12 s

next certificate to expire: etcd2 etcd-peer, in 29 days"""


def test_alarms_and_tasks_are_below_the_table(cluster: Cluster) -> None:
    error = etcd_status(1, errors=("memberID:2 alarm:NOSPACE ",))
    text = drawn(cluster, viewed(cluster.plan, etcd1=error), width=120)
    assert "alarm NOSPACE" in next(line for line in text.splitlines() if line.startswith("etcd2"))
    assert "alarm NOSPACE on etcd2: the database has reached its quota" in text
    assert "remedy: delete keys that you do not need, run bake defrag --compact --out" in text
    assert "to do: the first node's ISO still has the bootstrap permit\n  remedy: bake seal" in text
    assert "to do" not in drawn(cluster, view_of(cluster.plan, {}, {}), width=120), "before the first answers"


def test_a_cluster_without_vms_has_one_task_to_start_it(cluster: Cluster) -> None:
    start = Task(task="no VM", remedy="bake up")
    text = drawn(cluster, viewed(cluster.plan, etcd1="refused", etcd2="refused", etcd3="refused"), start=start)
    assert text.endswith("to do: no VM\n  remedy: bake up")
    assert text.count("to do") == 1
    assert "no VM" not in drawn(cluster, viewed(cluster.plan, etcd1="refused"), start=start)


@pytest.mark.parametrize("error", ["[red]x[/red]", "a:smile:b", "[/]"])
def test_texts_are_shown_as_they_are(cluster: Cluster, error: str) -> None:
    assert error in drawn(cluster, viewed(cluster.plan, etcd1=error), width=120)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"), (0, "0 KiB"), (1023 << 10, "1023 KiB"), (1 << 20, "1.0 MiB"), (1280 << 20, "1.2 GiB"),
        (512 << 20, "512 MiB"), (8 << 30, "8.0 GiB"),
    ],
)  # fmt: skip
def test_sizes(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_the_certificate_that_expires_first_counts(cluster: Cluster, now: datetime) -> None:
    found = next_to_expire(cluster, now=now + timedelta(days=100))
    assert found.keys() == {"cluster", "operator", "etcd1", "etcd2", "etcd3"}
    assert found["etcd1"].days_left == 365 - 1 - 100
    assert found["cluster"].days_left > 3000


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--watch"], "--watch needs a terminal, and the standard output is not a terminal"),
        (["--watch", "-o", "json"], "for JSON, run `bake status -o json` without --watch"),
        (["--watch", "-q"], "--watch and --quiet exclude each other"),
        (["--interval", "3"], "--interval needs --watch"),
        (["--watch", "--interval", "0"], "Invalid value for '--interval'"),
        (["--watch", "--interval", "soon"], "Invalid value for '--interval'"),
        (["--watch", "--interval", "nan"], "Invalid value for '--interval'"),
    ],
)
def test_bake_refuses_a_live_table_that_makes_no_sense(bake: Callable[..., Any], words: list[str], rule: str) -> None:
    bake("--nodes", 1)
    result = bake("status", *words)
    assert result.code == 2
    assert rule in result.err
    assert result.out == "" or "json" in words


def test_the_environment_may_have_an_interval(bake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bake("--nodes", 1)
    monkeypatch.setenv("BAKE_INTERVAL", "5")
    monkeypatch.setattr("generator.operations.status.cluster_status", lambda *_: view_of_nothing())
    monkeypatch.setattr("generator.cli.engines.machines_if_possible", lambda *_: {})
    assert bake("status").code == 0


def view_of_nothing() -> Any:
    from generator.operations.status import ClusterStatus

    return ClusterStatus(nodes=(), members=())


def test_a_terminal_that_cannot_move_its_cursor_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "generator.cli", "status", "--watch"]
    with terminal.Terminal(command, folder=tmp_path, env={"PYTHONPATH": str(ROOT), "TERM": "dumb"}) as here:
        assert here.ended() == 2
        assert re.search(r"TERM is\s+dumb", here.text)
