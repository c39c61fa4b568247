"""`bake apply` takes the steps in order, one at a time, and a second run finishes what a killed run has begun."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from generator.change.observed import Observed, Power
from generator.change.planner import plan_steps
from generator.change.steps import Action, Step
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.errors import BakeError, StaleError, UnhealthyError, WaitTimeoutError
from generator.level import Level
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.running import apply
from generator.operations.running.applied_seeds import WAITS, AppliedSeeds
from generator.operations.running.apply import Apply
from generator.progress import Silent
from generator.store.folder import Store
from generator.store.seed_history import load_history
from tests.unit.cluster_world import PLANS, World, born

STATES = {
    Power.RUNNING: State.RUNNING, Power.STOPPED: State.STOPPED, Power.LOST: State.MISSING, Power.UNKNOWN: State.UNKNOWN,
}  # fmt: skip


@dataclass
class Log:
    """A node's console."""

    new: bytes = b""

    def read(self) -> bytes:
        data, self.new = self.new, b""
        return data


@dataclass
class FakeEngine:
    """The machines of a World. `calls` has every change; `killed_at` ends the process before that change."""

    world: World
    cluster: Cluster
    calls: list[str] = field(default_factory=list)
    killed_at: int | None = None
    needs_reboot: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    drives: dict[str, str] = field(default_factory=dict)  # the digest of the seed in each node's drive
    logs: dict[str, Log] = field(default_factory=dict)

    def machines(self) -> Mapping[str, MachineStatus]:
        planned = {node.name for node in self.cluster.plan.nodes}
        names = dict.fromkeys((*sorted(planned), *self.world.power))
        power = {name: self.world.power.get(name, Power.LOST) for name in names}
        return {
            name: MachineStatus(
                node=name, state=STATES[each], planned=name in planned, disk_size=each is not Power.LOST,
                data_size=name in self.world.keeps_data, seed=self.drives.get(name, ""), has_seed=name in self.drives,
            )
            for name, each in power.items()
        }

    def _call(self, words: str) -> None:
        if self.killed_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(words)

    def _say(self, name: str, text: str) -> None:
        if name not in self.silent:
            self.logs.setdefault(name, Log()).new += f"bake: node={name} {text}\n".encode()

    def _settle(self, name: str) -> None:
        self._say(name, f"phase=settled seed={load_history(self.cluster.store).nodes[name][-1].seed}")
        self._say(name, "phase=voting")

    def _take(self, action: Action, name: str) -> None:
        self.world.take(Step(action=action, node=name, reason=""))
        self.world.live()
        self._settle(name)

    def create(self, *names: str) -> tuple[str, ...]:
        self._call(f"create {' '.join(names)}")
        for name in names:
            self._take(Action.START if name in self.world.voters else Action.ADD, name)
        return names

    def restart(self, name: str) -> None:
        self._call(f"restart {name}")
        self.world.outdated.pop(name, None)
        self._take(Action.UPDATE, name)

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        self._call(f"insert {name}")
        if name in self.needs_reboot:
            self._say(name, f'phase=waiting detail="{WAITS}"')
        else:
            self._take(Action.UPDATE, name)
        return True

    def remove_seed(self, name: str) -> bool:
        return self.drives.pop(name, None) is not None

    def remove(self, name: str) -> tuple[str, ...]:
        self._call(f"remove {name}")
        self.world.power.pop(name, None)
        return (name,)

    def remove_copies(self, name: str) -> tuple[str, ...]:
        self._call(f"remove copies of {name}")
        return self.world.copies.pop(name, ())

    def replace(self, name: str) -> None:
        self._call(f"replace {name}")
        self._take(Action.REPLACE, name)

    def reimage(self, name: str) -> None:
        self._call(f"reimage {name}")
        self.world.take(Step(action=Action.UPDATE, node=name, reason="", level=Level.REPLACE))
        self.world.live()
        self._settle(name)

    def remove_unused_images(self) -> tuple[str, ...]:
        return ()

    def console_logs(self, *names: str) -> Mapping[str, Log]:
        return {name: self.logs.setdefault(name, Log()) for name in names}


Start = Callable[..., tuple[FakeEngine, Callable[..., tuple[Step, ...]]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return a function that makes a cluster of `have` nodes, and a function that applies the spec of `want` nodes."""
    numbers = count()
    monkeypatch.setattr(apply, "_CALM", 0.05)
    monkeypatch.setattr(apply, "_SILENCE", 0.05)

    def make(have: int, want: int, *, data_disks: bool = False) -> tuple[FakeEngine, Callable[..., tuple[Step, ...]]]:
        world = born(have, data_disks=data_disks)
        store = Store(tmp_path / f"out{next(numbers)}", "etcd")
        spec = load(flags={"--nodes": (("nodes",), want)}).spec
        bake(spec, store, now=datetime.now(UTC), report=lambda _: None)
        world.plan = PLANS[want]
        engine = FakeEngine(world=world, cluster=open_cluster(store))

        def remove_member(_cluster: Cluster, seen: Observed, number: int) -> None:
            name = next(member.name for member in seen.members if member.id == number)
            engine._call(f"member remove {name}")
            world.voters.pop(name, None)
            world.live()

        def step_down(_cluster: Cluster, seen: Observed, step: Step, _report: object) -> None:
            if world.leader == step.node and len(world.voters) > 1:
                engine._call(f"hand over from {step.node}")
                world.leader = next(name for name in world.alive if name != step.node)

        monkeypatch.setattr(apply, "observe", lambda *_, **__: world.seen())
        monkeypatch.setattr(apply, "refuse_changed", lambda *_: None)
        monkeypatch.setattr(apply, "remove_member", remove_member)
        monkeypatch.setattr(apply, "step_down", step_down)
        monkeypatch.setattr(apply, "forget_removed", lambda *_: None)
        monkeypatch.setattr(apply, "admit", lambda *_: None)

        def run(**more: object) -> tuple[Step, ...]:
            settings = {"again": lambda: "bake AGAIN", "wait": 1.0, "progress": Silent(), "pause": 0.0, **more}
            return Apply(cluster=engine.cluster, engine=engine, **settings).run()  # type: ignore[arg-type]

        return engine, run

    return make


def test_growing_updates_the_old_nodes_and_then_adds_the_new_ones(start: Start) -> None:
    engine, run = start(3, 5)
    engine.world.pending = dict.fromkeys(("etcd1", "etcd2", "etcd3"), Level.LIVE)
    engine.world.leader = "etcd1"
    steps = run()
    assert engine.calls == ["insert etcd2", "insert etcd3", "insert etcd1", "create etcd4", "create etcd5"]
    assert [step.action for step in steps] == [Action.UPDATE] * 3 + [Action.ADD] * 2
    assert set(engine.world.voters) == {f"etcd{number}" for number in range(1, 6)}


def test_a_disk_that_is_left_of_a_removed_node_is_deleted_only_if_the_user_has_agreed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted removal has left it, and the node is planned again."""
    engine, run = start(3, 4)
    monkeypatch.setattr(apply, "observe", lambda *_, **__: replace(engine.world.seen(), left=frozenset({"etcd4"})))
    with pytest.raises(StaleError, match="the next step is now to add etcd4"):
        run(agreed=())
    assert engine.calls == []
    (step,) = run(agreed={(Action.ADD, "etcd4")})
    assert step.loses == "the disk that is left of its earlier VM is deleted"
    assert engine.calls == ["remove etcd4", "create etcd4"]


def test_shrinking_hands_over_removes_the_member_and_then_its_vm(start: Start) -> None:
    engine, run = start(3, 1)
    engine.world.leader = "etcd3"
    run()
    assert engine.calls == [
        "member remove etcd2", "remove etcd2", "hand over from etcd3", "member remove etcd3", "remove etcd3"
    ]  # fmt: skip


def test_a_restart_of_the_leader_comes_last_and_after_a_hand_over(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.pending = dict.fromkeys(("etcd1", "etcd2", "etcd3"), Level.RESTART)
    engine.world.leader = "etcd1"
    run()
    assert engine.calls == ["insert etcd2", "insert etcd3", "hand over from etcd1", "insert etcd1"]


class Shown:
    """Notes the phases that the user sees, and whether the node's etcd answered then."""

    def __init__(self, answers: Callable[[str], bool]) -> None:
        self.answers, self.events = answers, list[tuple[str, str, bool]]()

    def line(self, text: str) -> None:
        pass

    def event(self, node: str, phase: str, detail: str) -> None:
        self.events.append((node, phase, self.answers(node)))


@pytest.mark.parametrize("how", ["restart", "reboot"])
def test_a_node_is_shown_as_settled_only_when_its_etcd_answers_after_its_restart(
    start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A node prints that it has settled before etcd starts again. Some looks at the machines later, etcd has started.

    Before a restart of etcd, the old process answers for a while.
    """
    engine, run = start(3, 3)
    engine.world.leader, engine.world.pending = "etcd1", {"etcd2": Level.RESTART}
    looks, machines, restarted = {"restart": 6, "reboot": 3}[how], engine.machines, set[str]()
    engine.needs_reboot = {"etcd2"} if how == "reboot" else set()
    left = dict[str, int]()

    def settle(name: str) -> None:
        engine._say(name, f"phase=settled seed={load_history(engine.cluster.store).nodes[name][-1].seed}")
        left[name] = looks

    def look() -> Mapping[str, MachineStatus]:
        for name in left:
            left[name] -= 1
            if left[name] == 0:
                engine._say(name, "phase=voting")
                restarted.add(name)
        return machines()

    def observe(*_: object, **__: object) -> Observed:
        seen = engine.world.seen()
        down = {engine.world.voters[name] for name, more in left.items() if 0 < more < 4}
        return replace(seen, answering=seen.answering - down)

    monkeypatch.setattr(engine, "machines", look)
    monkeypatch.setattr(engine, "_settle", settle)
    monkeypatch.setattr(apply, "observe", observe)
    monkeypatch.setattr(apply, "_SILENCE", 60)
    shown = Shown(lambda node: node in restarted)
    run(progress=shown, wait=60.0)
    assert [event for event in shown.events if event[1] == "settled"] == [("etcd2", "settled", True)]


def test_a_node_that_applies_its_seed_only_at_a_boot_is_restarted(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.pending, engine.needs_reboot = {"etcd1": Level.LIVE}, {"etcd1"}  # an older node
    engine.world.leader = "etcd1"
    run()
    assert engine.calls == ["insert etcd1", "hand over from etcd1", "restart etcd1"]


@pytest.mark.parametrize("heals", [False, True])
def test_a_node_that_waits_for_a_reboot_with_a_seed_that_was_taken_back_keeps_a_seed(
    start: Start, monkeypatch: pytest.MonkeyPatch, heals: bool
) -> None:
    """At its next boot, cloud-init runs, and it needs a seed. `heals`: apply-seed disables cloud-init again."""
    engine, run = start(3, 3)
    engine.world.leader, engine.drives = "etcd1", {"etcd2": "the seed that was taken back"}
    applied = load_history(engine.cluster.store).nodes["etcd2"][-1].seed
    engine._say("etcd2", f"phase=settled seed={applied}")
    engine._say("etcd2", f'phase=waiting detail="{WAITS}"')
    log = engine.logs["etcd2"].new

    def insert(name: str, *, again: bool = False) -> bool:
        engine._call(f"insert {name}")
        if heals:
            engine._say(name, f'phase=settled seed={applied} detail="the applied seed is in the drive again"')
        return True

    def observe(*_: object, applied: AppliedSeeds, **__: object) -> Observed:
        return replace(engine.world.seen(), waiting=frozenset(applied.waiting))

    monkeypatch.setattr(engine, "insert_seed", insert)
    monkeypatch.setattr(apply, "observe", observe)
    steps = run()
    assert engine.drives == {}
    if heals:
        assert (steps, engine.calls) == ((), ["insert etcd2"])
        return
    assert [(step.node, step.level) for step in steps] == [("etcd2", Level.REBOOT)]
    assert "waits for a reboot" in steps[0].reason
    assert engine.calls == ["insert etcd2", "insert etcd2", "restart etcd2"]
    engine.logs["etcd2"].new, engine.drives = log, {"etcd2": "a seed"}
    monkeypatch.setattr(apply, "plan_steps", lambda *_, **__: ())  # no step reboots the node
    run()
    assert set(engine.drives) == {"etcd2"}, "its seed stays until it has booted"


def test_a_vm_with_another_definition_is_restarted_and_gets_its_new_seed_then(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.pending, engine.world.outdated = {"etcd1": Level.LIVE}, {"etcd1": ("memory",), "etcd2": ("memory",)}
    engine.world.leader = "etcd3"
    run()
    assert engine.calls == ["restart etcd1", "restart etcd2"]


def test_an_outdated_seed_in_a_drive_is_exchanged_and_every_drive_is_empty_at_the_end(start: Start) -> None:
    engine, run = start(3, 3)
    newest = hashlib.sha256(engine.cluster.store.read("etcd2/seed.iso") or b"").hexdigest()
    engine.drives = {"etcd1": "with the bootstrap permit", "etcd2": newest}
    run()
    assert engine.calls == ["insert etcd1"]
    assert engine.drives == {}


@pytest.mark.parametrize("repairs", [True, False])
def test_a_node_that_gets_a_repaired_seed_has_time_to_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch, repairs: bool
) -> None:
    """Without a new seed, nothing can make the node answer, so bake soon gives up."""
    engine, run = start(1, 1)
    engine.drives = {"etcd1": "an older seed"} if repairs else {}
    silent = 10

    def observe(*_: object, **__: object) -> Observed:
        nonlocal silent
        silent -= 1
        time.sleep(0.02)
        return replace(engine.world.seen(), members=()) if silent > 0 else engine.world.seen()

    monkeypatch.setattr(apply, "observe", observe)
    if repairs:
        assert run(wait=60.0) == ()
    else:
        with pytest.raises(UnhealthyError, match="no member answers"):
            run(wait=60.0)


def test_stopped_nodes_start_together_although_one_alone_has_no_quorum(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.power |= dict.fromkeys(("etcd1", "etcd2", "etcd3"), Power.STOPPED)
    run()
    assert engine.calls == ["create etcd1", "create etcd2", "create etcd3"]


def test_a_node_on_a_silent_host_is_neither_started_nor_replaced_nor_awaited(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.power["etcd2"] = Power.UNKNOWN
    engine.world.pending = dict.fromkeys(("etcd1", "etcd3"), Level.LIVE)
    engine.world.leader = "etcd1"
    run()
    assert engine.calls == ["insert etcd3", "insert etcd1"]


def test_an_old_vm_on_a_host_that_is_back_is_removed(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.copies = {"etcd2": ("host2",)}
    with pytest.raises(StaleError, match="the next step is now to remove etcd2"):
        run(agreed=())
    steps = run()
    assert engine.calls == ["remove copies of etcd2"]
    assert [(step.action, step.node) for step in steps] == [(Action.REMOVE, "etcd2")]
    assert "an old VM of the node is left on host2" in steps[0].reason


def test_a_lost_node_and_a_wished_node_are_replaced(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.power["etcd2"] = Power.LOST
    run()
    run(replace={"etcd3"})
    assert engine.calls == ["replace etcd2", "replace etcd3"]
    assert engine.world.has_quorum


def test_an_upgrade_exchanges_one_root_disk_after_the_other_and_the_leaders_last(start: Start) -> None:
    engine, run = start(3, 3, data_disks=True)
    engine.world.leader = "etcd1"
    steps = run(upgrade={"etcd1", "etcd2", "etcd3"})
    assert engine.calls == ["reimage etcd2", "reimage etcd3", "hand over from etcd1", "reimage etcd1"]
    assert {step.level for step in steps} == {Level.REPLACE}
    assert run() == ()


def test_without_data_disks_an_upgrade_replaces_the_nodes(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.leader = "etcd3"
    engine.world.rebuild = {"etcd1"}
    run(replace=set(), upgrade={"etcd2"})
    assert engine.calls == ["replace etcd1", "replace etcd2"]


def test_an_upgrade_stops_at_the_first_node_that_does_not_come_back(start: Start) -> None:
    engine, run = start(3, 3, data_disks=True)
    engine.world.leader = "etcd1"
    engine.world.take = lambda step: engine.world.power.__setitem__(step.node, Power.STOPPED)  # type: ignore[method-assign]
    with pytest.raises(UnhealthyError, match="etcd2: its VM has stopped twice") as error:
        run(upgrade={"etcd1", "etcd2", "etcd3"})
    assert (error.value.hint or "").endswith("; to go on, run bake AGAIN")
    assert engine.calls == ["reimage etcd2", "create etcd2"]


@pytest.mark.parametrize("cut", [["etcd2"], ["etcd3"], ["etcd2", "etcd3"]])
def test_nodes_that_lose_power_during_a_step_start_again(start: Start, cut: list[str]) -> None:
    engine, run = start(3, 3)
    engine.world.pending = {"etcd2": Level.RESTART}
    take, cuts = engine.world.take, list(cut)

    def cut_once(step: Step) -> None:
        take(step)
        if step.action is Action.UPDATE:
            engine.world.power |= dict.fromkeys(cuts, Power.STOPPED)

    engine.world.take = cut_once  # type: ignore[method-assign]
    run()
    assert engine.calls == ["insert etcd2", *(f"create {name}" for name in cut)]


@dataclass
class Clock:
    """A clock that only `sleep` moves."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:
        self.now += 1.0


@pytest.mark.parametrize("cut", ["etcd2", "etcd3"])
def test_a_node_that_loses_power_before_another_has_applied_its_seed_starts_again_at_once(
    start: Start, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, run = start(3, 3)
    engine.world.pending = {"etcd2": Level.RESTART}
    take = engine.world.take
    monkeypatch.setattr(apply, "time", clock := Clock())
    monkeypatch.setattr(apply, "_SILENCE", 60)

    def lose_power(step: Step) -> None:
        if step.action is Action.UPDATE:  # the seed is in the drive, and nothing more has happened
            engine.world.power[cut] = Power.STOPPED
        else:
            take(step)
            take(Step(action=Action.UPDATE, node="etcd2", reason=""))

    engine.world.take = lose_power  # type: ignore[method-assign]
    run(wait=600)
    assert engine.calls == ["insert etcd2", f"create {cut}"]
    assert clock.now < 10


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 5), (5, 3), (3, 1), (3, 3)])
def test_a_killed_run_is_finished_by_the_next_run(start: Start, have: int, want: int) -> None:
    for killed_at in count():
        engine, run = start(have, want)
        engine.world.pending = dict.fromkeys((f"etcd{n}" for n in range(1, min(have, want) + 1)), Level.RESTART)
        engine.needs_reboot, engine.killed_at = {"etcd1"}, killed_at
        try:
            run()
        except KeyboardInterrupt:
            engine.killed_at = None
            run()
        else:
            assert killed_at == len(engine.calls)
            break
        assert set(engine.world.voters) == {node.name for node in engine.world.plan.nodes}
        assert plan_steps(engine.world.plan, engine.world.seen()) == ()
    assert killed_at > 1


def test_a_step_that_deletes_something_unseen_is_not_taken(start: Start) -> None:
    engine, run = start(5, 3)
    with pytest.raises(StaleError, match="the next step is now to remove etcd4"):
        run(agreed={(Action.REMOVE, "etcd5")})
    assert engine.calls == []
    engine, run = start(3, 4)
    run(agreed=())  # nothing is deleted
    assert engine.calls == ["create etcd4"]


def test_an_unsafe_step_is_refused_with_the_reason(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.power |= {"etcd2": Power.LOST, "etcd3": Power.LOST}
    with pytest.raises(UnhealthyError, match="the cluster has no quorum"):
        run()
    assert engine.calls == []


def test_a_node_that_fails_stops_the_run(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.pending, engine.needs_reboot = {"etcd2": Level.LIVE}, {"etcd2"}
    engine._say = lambda name, _text: Log.__setattr__(  # type: ignore[method-assign]
        engine.logs[name], "new", f'bake: node={name} phase=failed detail="disk full"\n'.encode()
    )
    with pytest.raises(BakeError, match="etcd2 failed: disk full"):
        run()


def test_a_step_that_does_not_end_is_a_timeout_with_the_command_to_go_on(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.pending, engine.needs_reboot = {"etcd2": Level.LIVE}, {"etcd2"}
    engine.silent = {"etcd2"}
    with pytest.raises(WaitTimeoutError) as error:
        run(wait=0.05)
    assert "etcd2: the step `update` did not end within" in str(error.value)
    assert (error.value.hint or "").startswith("see bake console etcd2")
    assert (error.value.hint or "").endswith("; to go on, run bake AGAIN")


def test_an_unsafe_step_names_the_command_to_go_on(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.power["etcd3"] = Power.UNKNOWN
    with pytest.raises(UnhealthyError, match="cannot replace etcd2") as error:
        run(replace={"etcd2"})
    assert (error.value.hint or "").startswith("run bake status")
    assert (error.value.hint or "").endswith("; to go on, run bake AGAIN")


def test_after_an_interruption_only_the_nodes_without_a_new_disk_are_left_to_replace(start: Start) -> None:
    engine, run = start(3, 3)
    engine.world.leader, left, real = "etcd1", {"etcd2", "etcd3"}, engine.replace

    def replace_first(name: str) -> None:
        if name == "etcd3":
            raise KeyboardInterrupt
        real(name)

    engine.replace = replace_first  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(replace=left)
    assert left == {"etcd3"}
    engine.replace = real  # type: ignore[method-assign]
    run(replace=left)
    assert engine.calls == ["replace etcd2", "replace etcd3"]
