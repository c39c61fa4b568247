"""`bake restore` with machines in memory: what it asks, what it deletes, and what is left if it is interrupted."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator.artifact import Artifact
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.errors import BakeError, DeclinedError, WaitTimeoutError
from generator.layout import SEED_ISO
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.recovery import restore
from generator.operations.recovery.pending import refuse_old_machines
from generator.operations.recovery.restore import Loss, Restore
from generator.operations.recovery.snapshot_source import read_source
from generator.progress import Silent
from generator.seed import iso
from generator.store.folder import Store
from tests.conftest import Result
from tests.unit.test_snapshot_source import described, snapshot

Bake = Callable[..., Result]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
NAMES = ("etcd1", "etcd2", "etcd3")


@dataclass
class Console:
    text: bytes = b""

    def read(self) -> bytes:
        text, self.text = self.text, b""
        return text


@dataclass
class Machines:
    """An engine whose machines boot at once. `calls`: what was asked. `fails`: a call that raises KeyboardInterrupt."""

    states: dict[str, State] = field(default_factory=dict)
    isos: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    fails: str = ""
    settles: bool = True
    inserted: dict[str, str] = field(default_factory=dict)  # digest of the ISO that was inserted last

    def _call(self, text: str) -> None:
        if text == self.fails:
            raise KeyboardInterrupt
        self.calls.append(text)

    def machines(self) -> dict[str, MachineStatus]:
        return {
            name: MachineStatus(
                node=name, state=self.states.get(name, State.MISSING), disk_size=(name in self.states) << 30,
                planned=name in NAMES, seed=self.inserted.get(name, ""),
            )
            for name in dict.fromkeys((*NAMES, *self.states))
        }  # fmt: skip

    def create(self, *names: str) -> tuple[str, ...]:
        self._call(f"create {' '.join(names)}")
        for name in names:
            self.states[name] = State.RUNNING
            self._insert(name)
        return names

    def _insert(self, name: str) -> None:
        self.isos[name] = (FOLDER / name / SEED_ISO).read_bytes()
        self.inserted[name] = hashlib.sha256(self.isos[name]).hexdigest()

    def remove(self, name: str) -> tuple[str, ...]:
        self._call(f"remove {name}")
        self.states.pop(name)
        return (f"the VM {name}",)

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        self._call(f"insert {name}")
        self._insert(name)
        return True

    def remove_seed(self, name: str) -> bool:
        self._call(f"empty {name}")
        return self.isos.pop(name, None) is not None

    def console_logs(self, *names: str) -> dict[str, Console]:
        return {name: Console(self._said(name)) for name in names}

    def _said(self, name: str) -> bytes:
        phases = ("voting", "settled seed=x") if self.settles else ("joining",)
        return "".join(f"bake: node={name} phase={phase}\n" for phase in phases).encode()


@pytest.fixture
def cluster(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A sealed cluster whose nodes do not answer."""
    monkeypatch.setattr(restore, "_answering", lambda _cluster: {})
    assert bake("--nodes", 3).code == 0
    assert bake("seal", "--yes").code == 0
    Path("etcd.db").write_bytes(snapshot())
    return open_cluster(Store(Path("out"), "etcd"))


def run(
    cluster: Cluster, machines: Machines, consent: Callable[[Loss], None] | None = None, wait: float = 5
) -> None:
    def refuse(loss: Loss) -> None:
        raise AssertionError(loss)

    made = Restore(
        cluster=cluster, source=read_source(Path("etcd.db").absolute()), engine=machines, wait=wait, progress=Silent(),
        pause=0.01,
    )  # fmt: skip
    made.run(consent or refuse)


def on_iso(data: bytes) -> set[str]:
    return {file.path.name for file in iso.unpack(data)} - {"user-data", "meta-data", "network-config"}


def declined(_loss: Loss) -> None:
    raise DeclinedError("nothing was done")


RESTORING = {"bootstrap-permit", "snapshot.db", "snapshot.json"}


def test_a_lost_cluster_is_started_anew_without_a_question(cluster: Cluster) -> None:
    seen: list[set[str]] = []
    machines = Machines()
    create = machines.create

    def watched(*names: str) -> tuple[str, ...]:
        made = create(*names)
        seen.extend(on_iso(machines.isos[name]) for name in names)
        return made

    machines.create = watched  # type: ignore[method-assign]
    run(cluster, machines)
    assert seen == [RESTORING, set(), set()], "only the first node gets the permit and the snapshot"
    assert machines.calls == [
        "create etcd1 etcd2 etcd3", "insert etcd1", *sorted(f"empty {name}" for name in NAMES)
    ] or sorted(machines.calls[2:]) == [f"empty {name}" for name in NAMES]  # fmt: skip


def test_after_the_restore_no_permit_and_no_snapshot_is_left(cluster: Cluster, picture: Picture) -> None:
    before = picture(FOLDER)
    machines = Machines()
    run(cluster, machines)
    logs = {"console.log", "events.ndjson"}
    assert {path for path in picture(FOLDER) if Path(path).name not in logs} == before.keys()
    assert on_iso((FOLDER / "etcd1" / SEED_ISO).read_bytes()) == set()
    assert (FOLDER / "sealed").exists()
    assert machines.isos == {}


def test_existing_machines_are_deleted_only_after_confirmation(cluster: Cluster, picture: Picture) -> None:
    machines = Machines(states=dict.fromkeys(("etcd1", "etcd3", "etcd9"), State.STOPPED))
    before, losses = picture(FOLDER), list[Loss]()

    def decline(loss: Loss) -> None:
        losses.append(loss)
        declined(loss)

    with pytest.raises(DeclinedError):
        run(cluster, machines, decline)
    assert (machines.calls, picture(FOLDER)) == ([], before)
    assert [line.partition(":")[0] for line in losses[0].machines] == ["etcd1", "etcd3", "etcd9"]
    assert "1024 MiB" in losses[0].machines[0]
    run(cluster, machines, lambda _: None)
    assert machines.calls[:4] == ["remove etcd1", "remove etcd3", "remove etcd9", "create etcd1 etcd2 etcd3"]


def test_a_snapshot_of_another_cluster_needs_confirmation(cluster: Cluster) -> None:
    described(Path("etcd.db").absolute(), cluster_id="f" * 16)
    with pytest.raises(DeclinedError):
        run(cluster, Machines(), declined)
    described(Path("etcd.db").absolute(), cluster_id=cluster.cluster_id)
    run(cluster, Machines())


def test_the_question_says_that_newer_changes_are_lost(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_source(Path("etcd.db").absolute())
    machines = Machines(states=dict.fromkeys(NAMES, State.RUNNING)).machines()
    for more, expected in ((0, ()), (3, ("the members have revision {}: all changes after revision {} are lost",))):
        newest = source.facts.revision + more
        monkeypatch.setattr(restore, "_answering", lambda _cluster, newest=newest: {"etcd1": 1, "etcd2": newest})
        found = restore.assess(cluster, source, machines)
        assert found.doubts == tuple(text.format(newest, source.facts.revision) for text in expected)


@pytest.mark.parametrize("disk", ["disk_size", "data_size"])
def test_the_question_lists_a_disk_whose_vm_is_gone(cluster: Cluster, disk: str) -> None:
    machines = {name: MachineStatus(node=name, state=State.MISSING) for name in NAMES}
    machines["etcd2"] = replace(machines["etcd2"], **{disk: 3 << 30})
    found = restore.assess(cluster, read_source(Path("etcd.db").absolute()), machines)
    assert found.machines == ("etcd2: the VM (missing), its disk (3072 MiB) with all data",)


def test_a_member_that_bake_cannot_stop_is_refused(
    cluster: Cluster, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_answering", lambda _cluster: {"etcd2": 9})
    before = picture(FOLDER)
    for states in ({}, {"etcd2": State.STOPPED}):
        with pytest.raises(BakeError, match="etcd answers on etcd2, but bake does not find the VMs"):
            run(cluster, Machines(states=dict(states)))
    with pytest.raises(BakeError, match="do not belong to this cluster"):
        run(cluster, Machines(states={"etcd1": State.FOREIGN}))
    assert picture(FOLDER) == before


def test_a_member_that_still_answers_stops_the_restore(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clusters must not run at the same addresses."""
    monkeypatch.setattr(restore, "_answering", lambda _cluster: {"etcd2": 9})
    monkeypatch.setattr(restore, "_SHUTDOWN", 0.05)
    machines = Machines(states={"etcd2": State.RUNNING})
    with pytest.raises(BakeError, match="etcd still answers on etcd2"):
        run(cluster, machines, lambda _: None)
    assert machines.calls == ["remove etcd2"]


@pytest.mark.parametrize("fails", ["remove etcd2", "create etcd1 etcd2 etcd3", "insert etcd1", "empty etcd2"])
def test_an_interrupted_restore_can_be_repeated(cluster: Cluster, fails: str) -> None:
    machines = Machines(states={"etcd2": State.RUNNING}, fails=fails)
    with pytest.raises(KeyboardInterrupt):
        run(cluster, machines, lambda _: None)
    machines.fails = ""
    run(cluster, machines, lambda _: None)
    assert on_iso((FOLDER / "etcd1" / SEED_ISO).read_bytes()) == set()


@pytest.mark.parametrize("fails", ["remove etcd1", "remove etcd3"])
def test_bake_up_keeps_no_old_machine_after_an_interruption(
    bake: Bake, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Otherwise `bake up` would report the old cluster as restored, and drop the snapshot."""
    machines = Machines(states=dict.fromkeys(NAMES, State.RUNNING), fails=fails, inserted={"etcd1": "0" * 64})
    with pytest.raises(KeyboardInterrupt):
        run(cluster, machines, lambda _: None)
    monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: machines)
    monkeypatch.setattr("generator.cli.engines.require_hosts", lambda *_: None)
    monkeypatch.setattr("generator.operations.up.up", lambda *_, **__: pytest.fail("bake up goes on"))
    left = list(machines.states)
    result = bake("up")
    assert (result.code, list(machines.states)) == (1, left)
    assert f"interrupted before it deleted the old VMs ({', '.join(left)})" in result.err
    again = re.search(r"`(bake restore .+?)`", result.err)
    assert again
    _, _, path, *_ = shlex.split(again[1])
    assert read_source(Path(path)).data == snapshot()
    assert "to keep the old VMs and their data: `bake seal`" in result.err


def test_the_command_that_goes_on_is_one_for_the_shell(tmp_path: Path) -> None:
    store = Store(tmp_path / "o 8", "prod")
    names = (iso.SEED_SNAPSHOT, iso.SEED_SNAPSHOT_RECORD)
    snapshots = tuple(Artifact(name, b"{}", mode=0o600, secret=True) for name in names)
    spec = load(flags={"--name": (("name",), "prod")}).spec
    make(spec, store, now=datetime.now(UTC), report=print, snapshot=snapshots)
    cluster = open_cluster(store)
    machines = {node.name: MachineStatus(node=node.name, state=State.RUNNING) for node in cluster.plan.nodes}
    with pytest.raises(BakeError) as refused:
        refuse_old_machines(cluster, machines)
    again = re.search(r"to go on: `(.+?)`", refused.value.hint or "")
    assert again
    path = store.folder / "etcd1" / iso.SEED_SNAPSHOT
    assert shlex.split(again[1]) == ["bake", "restore", str(path), "--name", "prod", "--out", str(store.out)]


def test_no_repr_has_the_passphrase(cluster: Cluster) -> None:
    source = read_source(Path("etcd.db").absolute())
    restore = Restore(
        cluster=cluster, source=source, engine=Machines(), wait=1, progress=Silent(), passphrase=b"correct horse"
    )
    assert "correct horse" not in repr(restore)


@pytest.mark.parametrize("fails", ["create etcd1 etcd2 etcd3", ""])
def test_bake_up_finishes_a_restore_that_has_no_old_machines(
    bake: Bake, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    machines = Machines(states={"etcd2": State.RUNNING}, fails=fails, settles=False)
    with pytest.raises((KeyboardInterrupt, WaitTimeoutError)):
        run(cluster, machines, lambda _: None, wait=0.1)
    monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: machines)
    monkeypatch.setattr("generator.cli.engines.require_hosts", lambda *_: None)
    called = []

    def up(*_words: object, **_options: object) -> None:
        called.append(True)
        raise BakeError("the end")

    monkeypatch.setattr("generator.operations.up.up", up)
    assert (bake("up").err, called) == ("error: the end\n", [True])


def test_until_the_cluster_is_sealed_every_bake_keeps_the_snapshot(bake: Bake, cluster: Cluster) -> None:
    """Otherwise `bake up` after an interruption would start an empty cluster."""
    with pytest.raises(KeyboardInterrupt):
        run(cluster, Machines(fails="create etcd1 etcd2 etcd3"))
    assert not (FOLDER / "sealed").exists()
    for words in ((), ("--nodes", 5), ("--nodes", 3, "--yes"), ("certs", "rotate", "etcd2")):
        assert bake(*words).code == 0
        assert on_iso((FOLDER / "etcd1" / SEED_ISO).read_bytes()) == RESTORING
        assert on_iso((FOLDER / "etcd2" / SEED_ISO).read_bytes()) == set()
    Path("passphrase").write_text("x")
    refused = bake("backup", "etcd.age", "--passphrase-file", "passphrase")
    assert (refused.code, "is being restored" in refused.err) == (2, True)
    for name in RESTORING:
        assert (FOLDER / "etcd1" / name).stat().st_mode & 0o777 == 0o600
    assert bake("seal", "--yes").code == 0
    assert not (FOLDER / "etcd1/snapshot.db").exists()
    assert bake().code == 0
    assert on_iso((FOLDER / "etcd1" / SEED_ISO).read_bytes()) == set()


def test_nodes_that_do_not_settle_are_named(cluster: Cluster) -> None:
    made = Restore(
        cluster=cluster, source=read_source(Path("etcd.db").absolute()), engine=Machines(settles=False), wait=0.1,
        progress=Silent(), pause=0.01,
    )  # fmt: skip
    with pytest.raises(WaitTimeoutError, match="not settled after 0 s: etcd1, etcd2, etcd3") as caught:
        made.run(lambda _: None)
    assert "bake up" in str(caught.value)


CUTS: dict[str, Any] = {"cut": lambda data: data[:700], "empty": lambda data: b"", "text": lambda data: b"hello"}


@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_a_bad_file_is_one_error_and_changes_nothing(
    bake: Bake, cluster: Cluster, picture: Picture, change: Callable[[bytes], bytes]
) -> None:
    Path("etcd.db").write_bytes(change(snapshot()))
    before = picture(Path("out"))
    result = bake("restore", "etcd.db", "--yes")
    assert (result.code, result.out, result.err.count("error:")) == (2, "", 1)
    assert picture(Path("out")) == before


def test_the_question_lists_everything_that_is_lost(
    bake: Bake, cluster: Cluster, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(states={"etcd2": State.STOPPED})
    described(Path("etcd.db").absolute(), cluster_id="f" * 16, quorum=False)
    monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: machines)
    monkeypatch.setattr("generator.cli.recovery._check_version", lambda *_: None)
    before = picture(Path("out"))
    result = bake("restore", "etcd.db")
    assert (result.code, result.out, machines.calls, picture(Path("out"))) == (2, "", [], before)
    assert result.err == (
        "- etcd2: the VM (stopped), its disk (1024 MiB) with all data\n"
        f"WARNING: the snapshot is of another cluster (etcd, id {'f' * 16})\n"
        "WARNING: the snapshot is of etcd2 without a quorum: it lacks the writes that only the other members had\n"
        "error: this cannot be undone: etcd2: the VM (stopped), its disk (1024 MiB) with all data is deleted; "
        f"the snapshot is of another cluster (etcd, id {'f' * 16}); the snapshot is of etcd2 without a quorum: it "
        "lacks the writes that only the other members had\n"
        "  hint: nothing was done; add --yes to confirm\n"
    )
