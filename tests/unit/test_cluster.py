"""Operations on a running cluster, with a fake libvirt and fake nodes: waiting, sealing and status."""

from __future__ import annotations

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

from generator import console_records, vm
from generator.config.spec import ClusterSpec, read_spec
from generator.errors import BakeError
from generator.operations import boot_progress, status, up
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.destroy import destroy
from generator.operations.seal import seal_everywhere, seal_files
from generator.operations.status import MemberRole, NodeStatus
from generator.store.folder import Store
from generator.vm import Owned, State, VmStatus

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


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list, to which the test adds each ISO that bake inserts into the first VM's drive."""
    media: list[bytes] = []

    def replace_seed(_connection: object, _plan: object, node: Any, seed: Path, *, cluster_id: str) -> bool:
        assert (node.name, len(cluster_id)) == ("etcd1", 16)
        media.append(seed.read_bytes())
        return media.count(media[-1]) == 1

    monkeypatch.setattr(vm, "replace_seed", replace_seed)
    monkeypatch.setattr(vm, "remove_seed", lambda *_, **__: True)
    return media


def instance(cluster: Cluster, node: str) -> str:
    return yaml.safe_load(cluster.store.read(f"{node}/meta-data") or b"")["instance-id"]  # type: ignore[no-any-return]


def wait(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *consoles: Console, seconds: float = 60) -> list[str]:
    kept = KeptProgress()
    logs = dict(zip(NODES, consoles, strict=True))
    for name, console in logs.items():
        console.instance = console.instance or instance(cluster, name)
    monkeypatch.setattr(vm, "console_logs", lambda *_, **__: logs)
    up.wait_until_settled(object(), cluster, seconds=seconds, progress=kept)
    return kept.lines


def test_the_first_nodes_vote_seals_the_cluster_before_the_others_vote(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ("joining", "voting", "voting", "settled"), ("", "", "", "voting", "settled")
    lines = wait(baked, monkeypatch, Console("etcd1", *first), Console("etcd2", *second))
    (sealed,) = (number for number, line in enumerate(lines) if "sealed" in line)
    assert lines[sealed - 1] == "etcd1: voting"
    assert "etcd2: voting" in lines[sealed:]
    assert baked.sealed
    assert drive == [baked.store.read("etcd1/seed.iso")]
    assert [line for line in lines if "seed removed" in line] == [
        f"{node}: seed removed from its drive" for node in NODES
    ]
    assert b"voting" in (baked.store.read("etcd1/console.log") or b"")


def test_only_a_seed_that_the_node_has_applied_is_removed_from_its_drive(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, unnamed = Console("etcd1", "settled"), Console("etcd2", "settled")
    before.instance, unnamed.instance = "etcd1-0123456789abcdef", " "
    lines = wait(baked, monkeypatch, before, unnamed)
    assert "etcd1: settled" in lines
    assert not any("seed removed" in line for line in lines)


def test_an_old_failure_of_a_healthy_node_does_not_stop_up(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldConsole(Console):
        """A console with all its records at the first read."""

        def read(self) -> bytes:
            return b"".join(iter(super().read, b""))

    lines = wait(baked, monkeypatch, OldConsole("etcd1", "failed", "voting", "settled"), Console("etcd2", "settled"))
    assert not any("failed" in line for line in lines)
    assert "etcd1: seed removed from its drive" in lines


@pytest.mark.parametrize("part", [MemberRole.VOTER, MemberRole.LEARNER])
def test_a_running_node_with_an_empty_log_counts_if_it_votes_in_etcd(
    part: MemberRole, baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_records, "_QUIET_SECONDS", 0)
    states(monkeypatch, State.RUNNING, State.RUNNING)
    node = NodeStatus(name="etcd2", address="192.168.20.32", reachable=True, role=part)
    monkeypatch.setattr(boot_progress, "cluster_status", lambda *_: status.ClusterStatus(nodes=(node,), members=()))
    if part is MemberRole.LEARNER:
        with pytest.raises(BakeError, match="etcd1: settled, etcd2: nothing"):
            wait(baked, monkeypatch, Console("etcd1", "settled"), Console("etcd2"), seconds=5)
    else:
        lines = wait(baked, monkeypatch, Console("etcd1", "settled"), Console("etcd2"))
        assert lines[-1] == "etcd2: settled"


def test_the_vote_of_another_node_does_not_seal_the_cluster(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BakeError, match="etcd1 failed"):
        wait(baked, monkeypatch, Console("etcd1", "joining", "", "failed"), Console("etcd2", "voting"))
    assert not baked.sealed
    assert drive == []


def test_waiting_again_changes_nothing(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch, picture: Picture
) -> None:
    wait(baked, monkeypatch, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))

    def made() -> dict[str, object]:
        found = picture(baked.store.folder)
        return {name: found[name] for name in (*baked.store.manifest(), "manifest.json")}

    before = made()
    lines = wait(baked, monkeypatch, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))
    assert made() == before
    assert not any("sealed" in line for line in lines)


def test_a_seal_that_failed_at_the_drive_is_completed(
    baked: Cluster, drive: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BakeError("the drive is stuck", hint="try again: bake seal")

    with monkeypatch.context() as patch:
        patch.setattr(vm, "replace_seed", fail)
        with pytest.raises(BakeError, match="the drive is stuck") as error:
            wait(baked, monkeypatch, Console("etcd1", "voting"), Console("etcd2"))
    assert "bake seal" in (error.value.hint or "")
    assert baked.sealed
    lines = wait(baked, monkeypatch, Console("etcd1", "voting", "settled"), Console("etcd2", "voting", "settled"))
    assert any("sealed" in line for line in lines)
    assert drive == [baked.store.read("etcd1/seed.iso")]


# --- a sealed cluster without its VMs ------------------------------------------------------------------------


def seal(cluster: Cluster, now: datetime) -> None:
    seal_everywhere(None, cluster, now=now, report=print)


def states(monkeypatch: pytest.MonkeyPatch, *found: State) -> None:
    pairs = zip(NODES, found, strict=True)
    nodes = [VmStatus(node=name, domain=f"etcd-{name}", state=state) for name, state in pairs]
    monkeypatch.setattr(vm, "connect", lambda _: object())
    monkeypatch.setattr(vm, "status", lambda *_, **__: nodes)


@pytest.mark.parametrize(
    ("removed", "sealed"),
    [(("etcd-etcd1", "etcd-etcd2", "bake-etcd"), False), (("etcd-etcd2",), True), ((), True)],
    ids=["every node", "one of two", "nothing"],
)
def test_only_a_fully_destroyed_cluster_loses_its_seal(
    baked: Cluster, now: datetime, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...], sealed: bool
) -> None:
    seal(baked, now)
    states(monkeypatch, State.MISSING, State.MISSING)
    monkeypatch.setattr(vm, "destroy", lambda *_, **__: removed)
    owned = tuple(Owned(kind="VM", name=name, cluster_id=baked.cluster_id) for name in removed)
    monkeypatch.setattr(vm, "list_owned", lambda *_, **__: owned)
    mark = () if sealed else (str(baked.store.folder / "sealed"),)
    assert destroy(baked.store, uri=None, force=False, consent=lambda _: None) == (*removed, *mark)
    assert baked.sealed is sealed
    make(baked.plan.spec, baked.store, now=now, report=print)
    assert (baked.store.read("etcd1/bootstrap-permit") is None) is sealed


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
