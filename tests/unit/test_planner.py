"""The steps of a change: their order, their declared effects, and when a step is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from generator.change.gate import obstacle
from generator.change.observed import Observed, Power
from generator.change.planner import plan_steps
from generator.change.steps import Action, Effect, Step
from generator.config.load import load
from generator.etcd.answers import Member
from generator.level import Level
from generator.plan import ClusterPlan, plan_cluster

SEVEN = plan_cluster(load(flags={"--nodes": (("nodes",), 7)}).spec)


def planned(count: int) -> ClusterPlan:
    return plan_cluster(load(flags={"--nodes": (("nodes",), count)}).spec)


def member(number: int, *, learner: bool = False, started: bool = True) -> Member:
    node = SEVEN.nodes[number - 1]
    return Member(
        id=number, name=node.name if started else "", peer_urls=(node.peer_url,), client_urls=(node.client_url,),
        is_learner=learner,
    )  # fmt: skip


def seen(
    count: int, *, down: Collection[int] = (), lost: Collection[int] = (), also: Collection[Member] = (),
    pending: Mapping[str, Level] | None = None, leader: int = 1, **more: Any,
) -> Observed:  # fmt: skip
    """Return a cluster of the first `count` nodes. `down`: nodes whose VM is stopped. `lost`: nodes without a VM."""
    machines = {f"etcd{n}": Power.STOPPED if n in down else Power.RUNNING for n in range(1, count + 1) if n not in lost}
    return Observed(
        members=(*(member(n) for n in range(1, count + 1)), *also), leader=leader, pending=pending or {},
        answering=frozenset(n for n in range(1, count + 1) if n not in down and n not in lost),
        **({"machines": machines} | more),
    )  # fmt: skip


def keys(steps: Collection[Step]) -> list[str]:
    return [f"{step.action} {step.node}" for step in steps]


def test_a_cluster_as_planned_needs_no_step() -> None:
    assert plan_steps(planned(3), seen(3)) == ()


def test_new_nodes_join_after_the_others_have_their_new_seeds_and_the_leader_is_last() -> None:
    pending = dict.fromkeys(("etcd1", "etcd2", "etcd3"), Level.LIVE)
    steps = plan_steps(planned(5), seen(3, pending=pending, leader=2))
    assert keys(steps) == ["update etcd1", "update etcd3", "update etcd2", "add etcd4", "add etcd5"]
    assert {step.effect for step in steps} == {Effect.NONE}


def test_members_that_do_not_answer_are_removed_first_and_the_leader_last() -> None:
    steps = plan_steps(planned(1), seen(5, down=[4], leader=3))
    assert keys(steps) == ["remove etcd4", "remove etcd2", "remove etcd5", "remove etcd3"]
    assert [step.effect for step in steps][-1] is Effect.ELECTION


def test_a_node_that_waits_for_a_reboot_is_rebooted_although_its_seed_is_the_newest() -> None:
    """The user has taken back a change that needs a reboot, but cloud-init runs at the node's next boot."""
    (step,) = plan_steps(planned(3), seen(3, waiting=frozenset({"etcd2"})))
    assert (step.action, step.node, step.level) == (Action.UPDATE, "etcd2", Level.REBOOT)
    assert step.reason == "waits for a reboot because of a seed that is no longer planned"
    (step,) = plan_steps(planned(3), seen(3, waiting=frozenset({"etcd2"}), pending={"etcd2": Level.LIVE}))
    assert (step.level, step.reason) == (Level.REBOOT, "has a new seed")


def test_a_stopped_vm_starts_first_and_a_lost_vm_is_replaced() -> None:
    assert keys(plan_steps(planned(3), seen(3, down=[2], lost=[3]))) == ["start etcd2", "replace etcd3"]


def test_a_member_that_answers_is_not_lost_although_its_vm_is_not_seen() -> None:
    elsewhere = seen(3, machines={"etcd1": Power.RUNNING})
    assert plan_steps(planned(3), elsewhere) == ()
    wished = plan_steps(planned(3), elsewhere, replace=["etcd2"])
    assert "cannot see its VM" in (obstacle(wished[0], planned(3), elsewhere) or "")


def test_without_libvirt_nothing_is_started_or_replaced() -> None:
    assert plan_steps(planned(3), seen(3, down=[2], machines=None)) == ()


def test_a_node_that_has_not_finished_its_join_goes_on_joining() -> None:
    half = seen(2, also=[member(3, learner=True)], machines={f"etcd{n}": Power.RUNNING for n in (1, 2, 3)})
    (step,) = plan_steps(planned(3), half)
    assert (step.action, step.reason) == (Action.ADD, "has a VM, but is not a voter yet")


def test_a_vm_without_a_planned_node_is_removed() -> None:
    left = seen(3, machines={f"etcd{n}": Power.RUNNING for n in range(1, 5)})
    (step,) = plan_steps(planned(3), left)
    assert (step.action, step.node, step.member_id) == (Action.REMOVE, "etcd4", None)


@pytest.mark.parametrize(
    ("voters", "leader", "effect"),
    [(1, 1, Effect.PAUSE), (2, 1, Effect.PAUSE), (3, 1, Effect.ELECTION), (3, 2, Effect.RECONNECT)],
)
def test_the_declared_effect_of_a_restart(voters: int, leader: int, effect: Effect) -> None:
    (step,) = plan_steps(planned(voters), seen(voters, leader=leader, pending={"etcd1": Level.RESTART}))
    assert (step.level, step.effect) == (Level.RESTART, effect)


@pytest.mark.parametrize(
    ("action", "voters", "down", "refused"),
    [
        (Action.REMOVE, 1, [], "it is the last voter"),
        (Action.REMOVE, 2, [], None),
        (Action.REMOVE, 3, [], None),
        (Action.REMOVE, 3, [2], "1 of 2 voters answers after the removal"),
        (Action.REMOVE, 5, [2], None),
        (Action.REPLACE, 1, [], "the only copy of the data"),
        (Action.REPLACE, 2, [], "1 of 2 voters answers without this node"),
        (Action.REPLACE, 3, [], None),
        (Action.REPLACE, 3, [2], "1 of 3 voters answers without this node"),
        (Action.UPDATE, 1, [], None),
        (Action.UPDATE, 3, [2], "1 of 3 voters answers without this node"),
        (Action.UPDATE, 5, [2], None),
        (Action.ADD, 1, [], None),
        (Action.ADD, 3, [], None),
        (Action.ADD, 3, [2], "2 of 3 voters answer before a new node joins, and 3 must answer"),
        (Action.ADD, 5, [2], "4 of 5 voters answer before a new node joins, and 5 must answer"),
    ],
)
def test_a_step_that_would_cost_the_quorum_is_refused(
    action: Action, voters: int, down: list[int], refused: str | None
) -> None:
    now = seen(voters, down=down)
    step = Step(action=action, node="etcd1", reason="", level=Level.RESTART, member_id=1)
    found = obstacle(step, planned(voters), now)
    assert found is None if refused is None else refused in (found or "")


def test_removing_a_dead_voter_is_allowed() -> None:
    now = seen(3, down=[3])
    (step,) = plan_steps(planned(2), now)
    assert obstacle(step, planned(2), now) is None


REBUILD = {"etcd2": ("vm.disk",)}
KEEPS = frozenset({"etcd1", "etcd2", "etcd3"})


def test_new_root_disks_keep_the_data_and_the_leader_is_last() -> None:
    steps = plan_steps(planned(3), seen(3, keeps_data=KEEPS), upgrade=["etcd1", "etcd2", "etcd3"])
    assert keys(steps) == ["update etcd2", "update etcd3", "update etcd1"]
    assert {step.level for step in steps} == {Level.REPLACE}
    assert [step.effect for step in steps] == [Effect.RECONNECT, Effect.RECONNECT, Effect.ELECTION]
    assert {(step.reason, step.loses) for step in steps} == {("gets a new root disk (new image)", "")}


def test_a_changed_field_of_the_disk_exchanges_the_root_disk_or_replaces_the_node() -> None:
    (step,) = plan_steps(planned(3), seen(3, rebuild=REBUILD, keeps_data=KEEPS))
    assert (step.action, step.level, step.reason) == (
        Action.UPDATE, Level.REPLACE, "gets a new root disk (vm.disk)"
    )  # fmt: skip
    (step,) = plan_steps(planned(3), seen(3, rebuild=REBUILD))
    assert (step.action, step.reason, bool(step.loses)) == (Action.REPLACE, "needs new disks (vm.disk)", True)
    resized = {"etcd2": ("vm.disk", "vm.dataDisk")}
    (step,) = plan_steps(planned(3), seen(3, rebuild=resized, keeps_data=KEEPS))
    assert step.action is Action.REPLACE


def test_stopped_nodes_start_before_their_disks_change() -> None:
    now = seen(3, down=[3], rebuild=dict.fromkeys(("etcd2", "etcd3"), ("vm.disk",)), keeps_data={"etcd2"})
    assert keys(plan_steps(planned(3), now)) == ["start etcd3", "replace etcd3", "update etcd2"]


def test_one_step_brings_the_new_disk_and_the_new_seed() -> None:
    now = seen(3, rebuild=REBUILD, keeps_data=KEEPS, pending={"etcd2": Level.LIVE})
    (step,) = plan_steps(planned(3), now)
    assert (step.level, step.reason) == (Level.REPLACE, "gets a new root disk (vm.disk), has a new seed")


def test_a_lost_node_is_replaced_and_not_upgraded() -> None:
    steps = plan_steps(planned(3), seen(3, lost=[2], keeps_data=KEEPS - {"etcd2"}), upgrade=["etcd2", "etcd3"])
    assert keys(steps) == ["replace etcd2", "update etcd3"]


def test_a_node_that_has_not_joined_gets_no_new_disk() -> None:
    half = seen(2, also=[member(3, learner=True)], machines={f"etcd{n}": Power.RUNNING for n in (1, 2, 3)},
                keeps_data=KEEPS)  # fmt: skip
    assert keys(plan_steps(planned(3), half, upgrade=["etcd3"])) == ["add etcd3"]


@pytest.mark.parametrize(
    ("voters", "down", "refused"), [(1, [], None), (2, [], None), (3, [], None), (3, [2], "without this node")]
)
def test_a_new_root_disk_needs_the_quorum_of_the_others(voters: int, down: list[int], refused: str | None) -> None:
    step = Step(action=Action.UPDATE, node="etcd1", reason="", level=Level.REPLACE)
    found = obstacle(step, planned(voters), seen(voters, down=down))
    assert found is None if refused is None else refused in (found or "")


@pytest.mark.parametrize(("count", "allowed"), [(1, True), (2, True), (3, False)])
def test_a_small_cluster_that_an_upgrade_has_stopped_can_go_back(count: int, allowed: bool) -> None:
    """Its members do not answer. The way back keeps the data, and no other step is planned."""
    names = {f"etcd{n}" for n in range(1, count + 1)}
    stopped = Observed(members=(), machines=dict.fromkeys(names, Power.RUNNING), keeps_data=frozenset(names))
    steps = plan_steps(planned(count), stopped, upgrade=["etcd1"])
    assert keys(steps) == ["update etcd1"]
    assert (obstacle(steps[0], planned(count), stopped) is None) is allowed
    assert all(step.action is Action.ADD for step in plan_steps(planned(count), stopped))


def test_without_a_member_list_only_a_start_is_allowed() -> None:
    nothing = Observed(members=())
    for action in Action:
        step = Step(action=action, node="etcd1", reason="")
        assert (obstacle(step, planned(3), nothing) is None) is (action is Action.START)


@pytest.mark.parametrize("action", [Action.ADD, Action.REPLACE])
def test_no_node_joins_while_an_alarm_makes_etcd_refuse_writes(action: Action) -> None:
    step = Step(action=action, node="etcd3", reason="")
    assert obstacle(step, planned(3), seen(3)) is None
    refused = obstacle(step, planned(3), seen(3, alarms=frozenset({"CORRUPT"})))
    assert refused is not None
    assert "the alarm CORRUPT is active" in refused
    update = Step(action=Action.UPDATE, node="etcd3", reason="", level=Level.LIVE)
    assert obstacle(update, planned(3), seen(3, alarms=frozenset({"CORRUPT"}))) is None


def test_a_live_update_needs_a_quorum_but_not_every_voter() -> None:
    step = Step(action=Action.UPDATE, node="etcd1", reason="", level=Level.LIVE)
    assert obstacle(step, planned(3), seen(3, down=[2])) is None
    assert obstacle(step, planned(3), seen(3, down=[2, 3])) is not None


def test_while_no_member_answers_only_nodes_without_a_vm_are_known_to_be_new() -> None:
    stopped = Observed(members=(), machines={"etcd1": Power.STOPPED, "etcd2": Power.RUNNING})
    assert keys(plan_steps(planned(3), stopped)) == ["start etcd1", "add etcd3"]
    assert plan_steps(planned(3), Observed(members=())) == ()
