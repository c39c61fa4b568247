"""Operations on a running cluster, with fake machines: waiting, sealing and status."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator import console_records
from generator.config.spec import ClusterSpec, read_spec
from generator.engine import MachineStatus, Owned, State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.operations import status, up
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.destroy import destroy
from generator.operations.inside import console
from generator.operations.running import boot_progress
from generator.operations.running.applied_seeds import AppliedSeeds
from generator.operations.running.chosen_image import choose_image, chosen_image
from generator.operations.seal import seal_everywhere, seal_files
from generator.operations.status import MemberRole, NodeStatus
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock

Picture = Callable[[Path], dict[str, tuple[object, ...]]]
NODES = ("etcd1", "etcd2")


class KeptProgress:
    """A progress view that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def event(self, node: str, phase: str, detail: str) -> None:
        self.lines.append(f"{node}: {phase}")


class Console:
    """A console that returns one record for each read."""

    def __init__(self, node: str, *phases: str) -> None:
        self.node = node
        self.phases = [*phases]
        self.instance = ""  # the instance-id of the seed that the node has applied

    def read(self) -> bytes:
        phase = self.phases.pop(0) if self.phases else ""
        seed = f" seed={self.instance}" if phase == "settled" and self.instance else ""
        return f"bake: node={self.node} phase={phase}{seed}\n".encode() if phase else b""


@pytest.fixture
def spec() -> ClusterSpec:
    return read_spec({"nodes": 2})[0]


@pytest.fixture
def baked(spec: ClusterSpec, now: datetime, tmp_path: Path) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    make(spec, store, now=now, report=print)
    return open_cluster(store)


class FakeEngine:
    """The machines of two nodes. `media`: each ISO that bake has put into the first node's drive."""

    def __init__(self) -> None:
        self.cluster: Cluster
        self.logs: dict[str, Console] = {}
        self.states: dict[str, State] = {}
        self.facts: dict[str, Any] = {}  # of both machines
        self.media: list[bytes] = []
        self.stuck = False

    def machines(self) -> dict[str, MachineStatus]:
        return {name: self._status(name) for name in NODES}

    def _status(self, name: str) -> MachineStatus:
        return MachineStatus(node=name, state=self.states.get(name, State.RUNNING), **self.facts)

    def console_logs(self, *names: str) -> dict[str, Console]:
        return {name: self.logs[name] for name in names}

    def replace_seed(self, name: str) -> bool:
        assert name == "etcd1"
        if self.stuck:
            raise BakeError("the drive is stuck", hint="try again: bake seal")
        self.media.append(self.cluster.store.read("etcd1/seed.iso") or b"")
        return self.media.count(self.media[-1]) == 1

    def remove_seed(self, _name: str) -> bool:
        return True


@pytest.fixture
def engine(baked: Cluster) -> FakeEngine:
    made = FakeEngine()
    made.cluster = baked
    return made


def instance(cluster: Cluster, node: str) -> str:
    return yaml.safe_load(cluster.store.read(f"{node}/meta-data") or b"")["instance-id"]  # type: ignore[no-any-return]


def wait(cluster: Cluster, engine: Any, *consoles: Console, seconds: float = 60) -> list[str]:
    kept = KeptProgress()
    engine.logs = dict(zip(NODES, consoles, strict=True))
    for name, each in engine.logs.items():
        each.instance = each.instance or instance(cluster, name)
    up.wait_until_settled(engine, cluster, seconds=seconds, progress=kept)
    return kept.lines


def test_the_first_nodes_vote_seals_the_cluster_before_the_others_vote(
    baked: Cluster, engine: FakeEngine
) -> None:
    first, second = ("joining", "voting", "voting", "settled"), ("", "", "", "voting", "settled")
    lines = wait(baked, engine, Console("etcd1", *first), Console("etcd2", *second))
    (sealed,) = (number for number, line in enumerate(lines) if "sealed" in line)
    assert lines[sealed - 1] == "etcd1: voting"
    assert "etcd2: voting" in lines[sealed:]
    assert baked.sealed
    assert engine.media == [baked.store.read("etcd1/seed.iso")]
    assert [line for line in lines if "seed removed" in line] == [
        f"{node}: seed removed from its drive" for node in NODES
    ]
    assert b"voting" in (baked.store.read("etcd1/console.log") or b"")


def test_only_a_seed_that_the_node_has_applied_is_removed_from_its_drive(
    baked: Cluster, engine: FakeEngine
) -> None:
    before, unnamed = Console("etcd1", "settled"), Console("etcd2", "settled")
    before.instance, unnamed.instance = "etcd1-0123456789abcdef", " "
    lines = wait(baked, engine, before, unnamed)
    assert "etcd1: settled" in lines
    assert not any("seed removed" in line for line in lines)


def test_an_old_failure_of_a_healthy_node_does_not_stop_up(
    baked: Cluster, engine: FakeEngine
) -> None:
    class OldConsole(Console):
        """A console with all its records at the first read."""

        def read(self) -> bytes:
            return b"".join(iter(super().read, b""))

    lines = wait(baked, engine, OldConsole("etcd1", "failed", "voting", "settled"), Console("etcd2", "settled"))
    assert not any("failed" in line for line in lines)
    assert "etcd1: seed removed from its drive" in lines


@pytest.mark.parametrize("part", [MemberRole.VOTER, MemberRole.LEARNER])
def test_a_running_node_with_an_empty_log_counts_if_it_votes_in_etcd(
    part: MemberRole, baked: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_records, "_QUIET_SECONDS", 0)
    node = NodeStatus(name="etcd2", address="192.168.20.32", reachable=True, role=part)
    monkeypatch.setattr(boot_progress, "cluster_status", lambda *_: status.ClusterStatus(nodes=(node,), members=()))
    if part is MemberRole.LEARNER:
        with pytest.raises(BakeError, match="etcd1: settled, etcd2: nothing"):
            wait(baked, engine, Console("etcd1", "settled"), Console("etcd2"), seconds=5)
    else:
        lines = wait(baked, engine, Console("etcd1", "settled"), Console("etcd2"))
        assert lines[-1] == "etcd2: settled"


def test_the_vote_of_another_node_does_not_seal_the_cluster(
    baked: Cluster, engine: FakeEngine
) -> None:
    with pytest.raises(BakeError, match="etcd1 failed"):
        wait(baked, engine, Console("etcd1", "joining", "", "failed"), Console("etcd2", "voting"))
    assert not baked.sealed
    assert engine.media == []


def test_waiting_again_changes_nothing(
    baked: Cluster, engine: FakeEngine, picture: Picture
) -> None:
    wait(baked, engine, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))

    def made() -> dict[str, object]:
        found = picture(baked.store.folder)
        return {name: found[name] for name in (*baked.store.manifest(), "manifest.json")}

    before = made()
    lines = wait(baked, engine, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))
    assert made() == before
    assert not any("sealed" in line for line in lines)


def test_a_node_that_waits_for_a_reboot_keeps_the_seed_in_its_drive(
    baked: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "applied_seeds", lambda *_: AppliedSeeds(waiting={"etcd1"}))
    lines = wait(baked, engine, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))
    assert [line for line in lines if "removed from its drive" in line] == ["etcd2: seed removed from its drive"]


def test_a_seal_that_failed_at_the_drive_is_completed(
    baked: Cluster, engine: FakeEngine
) -> None:
    engine.stuck = True
    with pytest.raises(BakeError, match="the drive is stuck") as error:
        wait(baked, engine, Console("etcd1", "voting"), Console("etcd2"))
    engine.stuck = False
    assert "bake seal" in (error.value.hint or "")
    assert baked.sealed
    lines = wait(baked, engine, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))
    assert any("sealed" in line for line in lines)
    assert engine.media == [baked.store.read("etcd1/seed.iso")]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"outdated": ("memory",)}, ["etcd1: is running; to apply the changes: bake down, then bake up"]),
        ({"seed": "of an older seed"}, ["etcd1: is running; to apply the changes: bake down, then bake up"]),
        ({"image": "bb"}, [f"{node}: keeps its disk, which was made from another image" for node in NODES]),
    ],
)
def test_up_reports_vms_that_keep_another_definition_or_image(
    facts: dict[str, Any], said: list[str], baked: Cluster, engine: FakeEngine, tmp_path: Path
) -> None:
    """`bake up` has just started etcd2. Both nodes have the same seed here."""
    (baked.store.folder / "etcd2/seed.iso").write_bytes(baked.store.read("etcd1/seed.iso") or b"")
    digest = hashlib.sha256(baked.store.read("etcd1/seed.iso") or b"").hexdigest()
    engine.facts = {"seed": digest, "image": "aa", **facts}
    image, kept = BootImage(disk=tmp_path, format="raw", virtual_size=4, digest="aa"), KeptProgress()
    up._report_unchanged(engine, baked, image, ("etcd2",), kept.line)
    assert [line.replace(f" --out {baked.store.out}", "") for line in kept.lines] == said


@pytest.mark.parametrize("answers", [[{1}, {1}, {1, 2}], [{1, 2}], [set()]], ids=str)
def test_up_waits_while_only_a_part_of_the_nodes_answers(
    baked: Cluster, answers: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no node answers, waiting does not help: this machine does not reach the network."""
    left = list(answers)
    monkeypatch.setattr(up, "reachable", lambda *_, **__: left.pop(0))
    monkeypatch.setattr("time.sleep", lambda _: None)
    up._wait_for_addresses(baked.plan)
    assert left == []


# --- consoles ----------------------------------------------------------------------------------------------------


def test_a_console_is_followed_until_its_vm_stops(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_seconds: float) -> None:
        engine.states["etcd1"] = State.STOPPED
        engine.logs["etcd1"].phases.append("failed")

    monkeypatch.setattr("time.sleep", stop)
    engine.logs["etcd1"] = Console("etcd1", "joining", "voting")
    text = b"".join(console.follow(engine, "etcd1"))
    assert [line.rpartition("=")[2] for line in text.decode().splitlines()] == ["joining", "voting", "failed"]


def test_what_a_console_has_printed_ends_without_the_vm(engine: FakeEngine) -> None:
    engine.logs["etcd1"] = Console("etcd1", "joining", "voting")
    text = b"".join(console.printed(engine, "etcd1"))
    assert [line.rpartition("=")[2] for line in text.decode().splitlines()] == ["joining", "voting"]


@pytest.mark.parametrize(
    ("node", "state", "message"),
    [
        ("etcd9", State.RUNNING, "etcd9 has no VM"),
        ("etcd1", State.MISSING, "etcd1 has no VM"),
        ("etcd1", State.STOPPED, "the VM of etcd1 is not running"),
        ("etcd1", State.FOREIGN, "the VM with the name of etcd1 does not belong to this cluster"),
    ],
)
def test_only_a_running_vm_has_a_console(node: str, state: State, message: str, engine: FakeEngine) -> None:
    engine.states["etcd1"] = state
    for connect in (
        console.attach, lambda *words: next(console.follow(*words)), lambda *words: next(console.printed(*words)),
    ):  # fmt: skip
        with pytest.raises(BakeError, match=message):
            connect(engine, node)


# --- a sealed cluster without its VMs ------------------------------------------------------------------------


def seal(cluster: Cluster, now: datetime) -> None:
    seal_everywhere(None, cluster, now=now, report=print)


@pytest.mark.parametrize(
    ("removed", "sealed"),
    [(("etcd-etcd1", "etcd-etcd2", "bake-etcd"), False), (("etcd-etcd2",), True), ((), True)],
    ids=["every node", "one of two", "nothing"],
)
def test_only_a_fully_destroyed_cluster_loses_its_seal(
    baked: Cluster, now: datetime, removed: tuple[str, ...], sealed: bool
) -> None:
    seal(baked, now)
    choose_image(baked.store, "old-image", print)

    class FakeHosts:
        def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
            assert (cluster, cluster_id) == ("etcd", baked.cluster_id)
            return tuple(Owned(kind="VM", name=name, cluster_id=cluster_id) for name in removed)

        def destroy(self, *_: object, **__: object) -> tuple[str, ...]:
            return removed

        def used_images(self) -> set[str]:
            return set()

    mark = () if sealed else tuple(str(baked.store.folder / name) for name in ("sealed", "image.txt"))
    assert destroy(baked.store, FakeHosts, force=False, consent=lambda _: None) == (*removed, *mark)
    assert baked.sealed is sealed
    assert chosen_image(baked.store) == ("old-image" if sealed else "")
    make(baked.plan.spec, baked.store, now=now, report=print)
    assert (baked.store.read("etcd1/bootstrap-permit") is None) is sealed


def test_a_cluster_is_not_destroyed_while_a_command_changes_it(baked: Cluster) -> None:
    with operation_lock(baked.store, "bake apply"), pytest.raises(BakeError, match=r"`bake apply` .* is changing"):
        destroy(baked.store, pytest.fail, force=True, consent=lambda _: None)


def test_a_permit_left_by_a_killed_seal_is_reported_and_removed_by_the_next_seal(baked: Cluster, now: datetime) -> None:
    """`seal` is killed after it has put the new folder in place, before it removes the old folder."""
    if (child := os.fork()) == 0:
        shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        seal_files(baked.store, baked.plan, now=now, report=print)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(baked.store.out.glob(".*/etcd1/bootstrap-permit"))) == 1
    assert baked.store.read("sealed")
    assert not baked.sealed
    assert not seal_files(baked.store, baked.plan, now=now, report=print), "the files were already sealed"
    assert [path.name for path in baked.store.out.iterdir()] == ["etcd"]
    assert baked.sealed


# --- status ------------------------------------------------------------------------------------------------


def test_status_shows_whether_the_cluster_is_sealed_and_the_tasks_that_are_left(
    bake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bake("--nodes", 2)
    monkeypatch.setattr("generator.vm.connection.libvirt", None)
    node = NodeStatus(name="etcd1", address="192.168.20.31", reachable=True)
    monkeypatch.setattr(status, "cluster_status", lambda *_: status.ClusterStatus(nodes=(node,), members=()))
    monkeypatch.setattr(status, "is_answering", lambda *_: True)
    shown = bake("status").out
    assert "\nsealed: no\nTO DO" in shown
    assert " ".join(shown.splitlines()[-1].split()) == "the first node's ISO still has the bootstrap permit bake seal"
    assert [task["remedy"] for task in json.loads(bake("status", "-o", "json").out)["tasks"]] == ["bake seal"]
    assert "no member answers" not in bake("seal").err
    assert bake("status").out.endswith("\nsealed: yes\n")
    told = json.loads(bake("status", "-o", "json").out)
    assert (told["sealed"], told["tasks"], told["nodes"][0]["node"]) == (True, [], "etcd1")
