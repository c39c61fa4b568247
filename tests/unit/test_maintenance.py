"""`bake defrag`, `bake alarm` and `bake move-leader`: what the commands do, and in which states they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from generator.errors import DeclinedError, InputError, UnhealthyError, WaitTimeoutError
from generator.etcd.answers import Alarm
from generator.operations.baked_cluster import Cluster
from generator.operations.maintenance import alarms, defrag, leader, survey
from generator.plan import ClusterPlan
from tests.unit.maintained import Members, serving

MIB = 1 << 20
Pair = tuple[Cluster, Members]
FREE = {"dbSize": 300 * MIB, "dbSizeInUse": 7 * MIB}
NOSPACE, CORRUPT = 1, 2


@pytest.fixture
def trio(plan: Callable[..., ClusterPlan], tmp_path: Path) -> Iterator[Pair]:
    with serving(plan(nodes=3), tmp_path) as found:
        yield found


def made(members: Members, verb: str) -> list[str]:
    """Return the nodes that received a call, in order."""
    return [name for name, call in members.calls if call.endswith(f"/{verb}")]


def run_defrag(cluster: Cluster, **more: Any) -> tuple[defrag.Defragmentation, ...]:
    return defrag.defragment(cluster, **{"force": False, "report": print, **more})


# --- move-leader --------------------------------------------------------------------------------------------


def test_a_named_voter_becomes_the_leader(trio: Pair) -> None:
    cluster, members = trio
    move = leader.move_leader(cluster, "etcd3", report=print)
    assert (move.before, move.after, members.leader) == ("etcd1", "etcd3", 3)
    assert made(members, "MoveLeader") == ["etcd1"]


def test_the_voter_with_the_newest_data_becomes_the_leader(trio: Pair) -> None:
    cluster, members = trio
    members.status = {"etcd1": {"raftIndex": 900}, "etcd2": {"raftIndex": 880}, "etcd3": {"raftIndex": 890}}
    assert leader.move_leader(cluster, None, report=print).after == "etcd3"


def test_the_leader_stays_the_leader(trio: Pair) -> None:
    cluster, members = trio
    move = leader.move_leader(cluster, "etcd1", report=print)
    assert (move.before, move.after, move.seconds, made(members, "MoveLeader")) == ("etcd1", "etcd1", 0.0, [])


def test_an_unknown_node_is_wrong_input(trio: Pair) -> None:
    with pytest.raises(InputError, match=r"NODE: there is no node 'etcd9'.*\n.*use one of etcd1, etcd2, etcd3"):
        leader.move_leader(trio[0], "etcd9", report=print)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"learners": ("etcd2",)}, "etcd2 is a learner"),
        ({"status": {"etcd1": {"raftIndex": 5000}}}, "etcd2 lacks 4950 log entries"),
        ({"alarms": [(2, CORRUPT)]}, "the data of etcd2 is corrupt"),
        ({"status": {"etcd2": {"leader": 3}}}, "etcd2 has another leader than the other members"),
        ({"status": {"etcd2": {"leader": 0}}}, "etcd2 is not healthy: knows no leader"),
    ],
)
def test_a_node_that_cannot_lead_is_refused(trio: Pair, change: dict[str, Any], why: str) -> None:
    cluster, members = trio
    for name, value in change.items():
        setattr(members, name, value)
    with pytest.raises(UnhealthyError, match=f"etcd2 cannot become the leader: .*{why}"):
        leader.move_leader(cluster, "etcd2", report=print)
    assert made(members, "MoveLeader") == []


def test_an_unreachable_node_and_a_single_voter_are_refused(
    plan: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    with serving(plan(nodes=3), tmp_path, "etcd2") as (cluster, members):
        with pytest.raises(UnhealthyError, match="etcd2 is not healthy: connection refused"):
            leader.move_leader(cluster, "etcd2", report=print)
        assert leader.move_leader(cluster, None, report=print).after == "etcd3"
        members.leader, members.status = 1, {"etcd1": {"raftIndex": 5000}}
        with pytest.raises(UnhealthyError, match=r"can become the leader: etcd2 is not healthy.*; etcd3 lacks 4950"):
            leader.move_leader(cluster, None, report=print)
    with serving(plan(nodes=1), tmp_path) as (cluster, _), pytest.raises(UnhealthyError, match="is the only voter"):
        leader.move_leader(cluster, None, report=print)


def test_a_refusal_of_etcd_is_reported(trio: Pair) -> None:
    cluster, members = trio
    cause = "etcdserver: request timed out, leader transfer took too long"
    members.replies["etcd1", "Maintenance/MoveLeader"] = (StatusCode.UNAVAILABLE, cause)
    with pytest.raises(UnhealthyError, match=f"could not move the leader from etcd1 to etcd2: {cause}"):
        leader.move_leader(cluster, "etcd2", report=print)


def test_a_voter_that_does_not_lead_in_time_is_reported(trio: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, members = trio
    members.replies["etcd1", "Maintenance/MoveLeader"] = b""
    monkeypatch.setattr(leader, "_WAIT_SECONDS", 0.3)
    with pytest.raises(WaitTimeoutError, match="etcd2 does not lead after 0 s: etcd2 reports the leader 1"):
        leader.move_leader(cluster, "etcd2", report=print)


# --- defrag -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "in_use", "quota", "pays"),
    [
        (300, 7, 2048, True),
        (300, 165, 2048, True),  # 45 % is free
        (300, 166, 2048, False),
        (181, 82, 2048, False),  # less than 100 MiB is free
        (180, 80, 2048, True),
        (2000, 1900, 2048, True),  # the database is fuller than 80 % of the quota
        (2000, 2000, 2048, False),
        (1700, 1690, 2 * 2048, False),
        (1700, 1690, -1, False),  # without a limit
    ],
)
def test_a_defragmentation_must_pay(trio: Pair, size: int, in_use: int, quota: int, pays: bool) -> None:
    cluster, members = trio
    sizes = {"dbSize": size * MIB, "dbSizeInUse": in_use * MIB, "dbSizeQuota": quota * MIB if quota > 0 else quota}
    members.status["etcd2"] = sizes
    found = run_defrag(cluster)
    assert [one.after is not None for one in found] == [False, pays, False]
    assert made(members, "Defragment") == (["etcd2"] if pays else [])


def test_the_leader_is_the_last_member_and_another_member_leads_before(trio: Pair) -> None:
    cluster, members = trio
    members.status = {name: dict(FREE) for name in ("etcd1", "etcd2", "etcd3")}
    found = run_defrag(cluster)
    assert [call for call in members.calls if call[1] != "Maintenance/Alarm"] == [
        ("etcd2", "Maintenance/Defragment"), ("etcd3", "Maintenance/Defragment"),
        ("etcd1", "Maintenance/MoveLeader"), ("etcd1", "Maintenance/Defragment"),
    ]  # fmt: skip
    assert [(one.node, one.leader, one.before, one.in_use, one.after) for one in found] == [
        (f"etcd{number}", number == 1, 300 * MIB, 7 * MIB, 7 * MIB) for number in (1, 2, 3)
    ]
    row = defrag.defrag_row(found[0])
    assert (row["node"], row["size"], row["gain"], row["new size"]) == (
        "etcd1 (leader)", "300.0 MiB", "293.0 MiB", "7.0 MiB",
    )  # fmt: skip


def test_a_single_member_is_defragmented_in_place(plan: Callable[..., ClusterPlan], tmp_path: Path) -> None:
    with serving(plan(nodes=1), tmp_path) as (cluster, members):
        members.status["etcd1"] = dict(FREE)
        assert run_defrag(cluster)[0].after == 7 * MIB
        assert made(members, "MoveLeader") == []


def test_force_defragments_all_members(trio: Pair) -> None:
    cluster, members = trio
    assert all(one.after is not None for one in run_defrag(cluster, force=True))
    assert made(members, "Defragment") == ["etcd2", "etcd3", "etcd1"]


def test_any_gain_pays_while_the_database_is_full(trio: Pair) -> None:
    cluster, members = trio
    members.status["etcd3"] = {"dbSize": 17 * MIB, "dbSizeInUse": 16 * MIB}
    members.alarms.append((3, NOSPACE))
    found = run_defrag(cluster)
    assert [one.reason for one in found] == ["no free space in the database"] * 2 + ["the alarm NOSPACE is active"]
    assert made(members, "Defragment") == ["etcd3"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"learners": ("etcd3",)}, "etcd3 is a learner"),
        ({"alarms": [(3, CORRUPT)]}, "the data of etcd3 is corrupt"),
        ({"status": {"etcd2": FREE, "etcd3": {"raftIndex": 9999}}}, "etcd1 lacks 9949 log entries"),
    ],
)
def test_no_member_is_defragmented_while_another_is_not_healthy(
    trio: Pair, change: dict[str, Any], why: str
) -> None:
    cluster, members = trio
    for name, value in change.items():
        setattr(members, name, value)
    with pytest.raises(UnhealthyError, match=f"the cluster is not healthy: .*{why}"):
        run_defrag(cluster, force=True)
    assert made(members, "Defragment") == []


def test_no_member_is_defragmented_while_another_is_off(plan: Callable[..., ClusterPlan], tmp_path: Path) -> None:
    with serving(plan(nodes=3), tmp_path, "etcd3") as (cluster, members):
        with pytest.raises(UnhealthyError, match="etcd3 is not healthy: connection refused"):
            run_defrag(cluster, force=True)
        assert made(members, "Defragment") == []


def test_the_command_stops_at_the_first_member_that_does_not_come_back(
    trio: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, members = trio
    monkeypatch.setattr(defrag, "_BACK_SECONDS", 0.5)
    reply = members.reply

    def lost(name: str, path: str, raw: bytes) -> Any:
        if path.endswith("/Defragment"):
            members.status[name] = {"leader": 0}
        return reply(name, path, raw)

    monkeypatch.setattr(members, "reply", lost)
    with pytest.raises(WaitTimeoutError, match="etcd2 is not healthy 0 s after its defragmentation"):
        run_defrag(cluster, force=True)
    assert made(members, "Defragment") == ["etcd2"]


def test_a_failed_defragmentation_is_reported(trio: Pair) -> None:
    cluster, members = trio
    members.replies["etcd2", "Maintenance/Defragment"] = (StatusCode.UNKNOWN, "etcdserver: no space left on device")
    with pytest.raises(UnhealthyError, match="etcd2: could not defragment the database: etcdserver: no space left"):
        run_defrag(cluster, force=True)
    assert made(members, "Defragment") == ["etcd2"]


def test_a_health_check_during_an_election_is_repeated(trio: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, members = trio
    read, pauses = ("etcd2", "KV/Range"), []
    members.replies[read] = (StatusCode.UNAVAILABLE, "etcdserver: leader changed")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        members.replies.pop(read, None)

    monkeypatch.setattr(survey.time, "sleep", pause)
    assert list(survey.healthy(cluster).defects()) == []
    assert len(pauses) == 1


def test_a_health_check_that_took_too_long_is_repeated(trio: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "FRESH_SECONDS", 60)
    assert survey.healthy(trio[0]).seconds < 60
    real, calls = survey.survey, []

    def slow(*words: Any, **more: Any) -> Any:
        calls.append(words)
        found = real(*words, **more)
        object.__setattr__(found, "seconds", 61.0 if len(calls) < 3 else 0.1)
        return found

    monkeypatch.setattr(survey, "survey", slow)
    survey.healthy(trio[0])
    assert len(calls) == 3
    monkeypatch.setattr(survey, "_TRIES", 2)
    calls.clear()
    with pytest.raises(UnhealthyError, match=r"the members took 61\.0 s to answer"):
        survey.healthy(trio[0])


def test_compact_reaches_every_member(trio: Pair) -> None:
    cluster, members = trio
    assert defrag.compact(cluster, report=print) == 9
    assert made(members, "Compact") == ["etcd1", "etcd2", "etcd3"]


# --- alarm --------------------------------------------------------------------------------------------------


def refuse(loss: str) -> None:
    raise DeclinedError(loss)


def test_alarms_are_in_the_order_of_the_nodes(trio: Pair) -> None:
    """The order of the members' ids, which etcd chooses, says nothing to a person."""
    cluster, members = trio
    members.alarms = [(0xAB, NOSPACE), (3, NOSPACE), (1, NOSPACE)]
    assert [one.node for one in alarms.list_alarms(cluster)] == ["etcd1", "etcd3", "(not a member)"]
    names = {1: "etcd3", 2: "etcd2", 3: "etcd1"}
    found = [Alarm(member_id=member, kind="NOSPACE") for member in names]
    assert [one.node for one in alarms.explain(cluster, found, names)] == ["etcd1", "etcd2", "etcd3"]


def test_each_alarm_has_a_remedy(trio: Pair) -> None:
    cluster, members = trio
    members.alarms = [(2, NOSPACE), (0xAB, CORRUPT)]
    full, corrupt = alarms.list_alarms(cluster)
    assert (full.node, full.member_id, full.alarm) == ("etcd2", "2", "NOSPACE")
    assert "bake defrag --compact" in full.remedy
    assert "bake alarm disarm" in full.remedy
    assert (corrupt.node, corrupt.member_id, corrupt.alarm) == ("(not a member)", "ab", "CORRUPT")
    assert "alarm disarm, then at once bake replace NODE" in re.sub(r" --(name|out) \S+(?=,|$)", "", corrupt.remedy)
    members.alarms = [(3, CORRUPT)]
    assert "then at once bake replace etcd3" in alarms.list_alarms(cluster)[0].remedy
    members.alarms.clear()
    assert alarms.list_alarms(cluster) == ()


def test_nospace_is_cleared_only_if_every_database_has_room(trio: Pair) -> None:
    cluster, members = trio
    members.alarms = [(2, NOSPACE)]
    members.status["etcd3"] = {"dbSize": 1900 * MIB}
    with pytest.raises(UnhealthyError, match=r"not enough room yet: the database of etcd3 has .*more than 90%"):
        alarms.disarm(cluster, consent=refuse)
    assert members.alarms == [(2, NOSPACE)]
    members.status["etcd3"] = {"dbSize": 1800 * MIB}
    assert [one.node for one in alarms.disarm(cluster, consent=refuse)] == ["etcd2"]
    assert members.alarms == []
    assert alarms.disarm(cluster, consent=refuse) == ()


@pytest.mark.parametrize(("options", "quota"), [({}, 2048), ({"quota-backend-bytes": 64 * MIB}, 64)])
def test_the_quota_comes_from_the_member_or_from_the_spec(
    plan: Callable[..., ClusterPlan], tmp_path: Path, options: dict[str, int], quota: int
) -> None:
    with serving(plan(nodes=1, etcd={"options": options}), tmp_path) as (cluster, members):
        members.alarms = [(1, NOSPACE)]
        members.status["etcd1"] = {"dbSize": quota * MIB}
        with pytest.raises(UnhealthyError, match=f"its quota of {quota * MIB}"):
            alarms.disarm(cluster, consent=refuse)
        members.status["etcd1"]["dbSizeQuota"] = 2 * quota * MIB
        alarms.disarm(cluster, consent=refuse)


def test_nospace_is_not_cleared_while_a_member_does_not_answer(
    plan: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    with serving(plan(nodes=3), tmp_path, "etcd3") as (cluster, members):
        members.alarms = [(1, NOSPACE)]
        with pytest.raises(UnhealthyError, match="etcd3 does not answer"):
            alarms.disarm(cluster, consent=refuse)


def test_corrupt_needs_confirmation(trio: Pair) -> None:
    cluster, members = trio
    members.alarms = [(3, CORRUPT)]
    with pytest.raises(DeclinedError, match="the data of etcd3 differs from the data of the other members"):
        alarms.disarm(cluster, consent=refuse)
    assert members.alarms == [(3, CORRUPT)]
    asked: list[str] = []
    alarms.disarm(cluster, consent=asked.append)
    assert (len(asked), members.alarms) == (1, [])


def test_an_alarm_that_etcd_raises_again_is_reported(trio: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, members = trio

    class Stubborn(list[tuple[int, int]]):
        def remove(self, _: object) -> None:
            pass

    members.alarms = Stubborn([(2, NOSPACE)])
    with pytest.raises(UnhealthyError, match="etcd raised the alarm again: NOSPACE"):
        alarms.disarm(cluster, consent=refuse)
