"""The engine on libvirt's QEMU driver, with small guests: one VM changes, and the others keep running."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from generator import vm
from generator.console_records import Journal, follow
from generator.engine import State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan

Make = Callable[..., ClusterPlan]


class World:
    """A cluster of small guests in the lab. Engines differ in the number of nodes and in the VMs' memory."""

    def __init__(self, lab: Any, plan: Make, image: BootImage, folder: Path) -> None:
        self.lab, self.plan, self.image, self.seeds = lab, plan, image, folder
        self.connection = vm.connect(lab.uri)
        self.folder = lab.folder / "lib" / "images" / "bake-small"
        self.said: list[str] = []
        for node in ("etcd1", "etcd2", "etcd3"):
            self.write_seed(node, f"seed of {node}".encode() * 1000)

    def write_seed(self, node: str, seed: bytes) -> None:
        (self.seeds / node).mkdir(exist_ok=True)
        (self.seeds / node / "seed.iso").write_bytes(seed)

    def engine(self, nodes: int = 3, *, memory: int = 256, **fields: Any) -> vm.LibvirtEngine:
        size, network = {"memory": memory, "disk": 2}, {"subnet": "10.124.0.0/24"}
        return vm.LibvirtEngine(
            connection=fields.pop("connection", self.connection),
            plan=self.plan(name="small", nodes=nodes, vm=size, network=network),
            seeds=self.seeds,
            load_image=lambda: self.image,
            report=self.said.append,
            **{"cluster_id": "id1", "accel": "tcg", "patience": 120, **fields},
        )

    def wait_ready(self, *names: str) -> None:
        waiting = set(names)
        for event in follow(self.engine().console_logs(*names), Journal(self.seeds), timeout=600):
            waiting -= {event.node} if event.phase == "configured" else set()
            if not waiting:
                return

    def ask(self, node: str, word: str, answer: str) -> str:
        """Type a word on a node's console. Return the text that matches the pattern `answer`."""
        stream, heard = self.connection.newStream(), b""
        self.connection.lookupByName(f"small-{node}").openConsole(None, stream, 0)
        stream.send(f"{word}\n".encode())
        while not (found := re.search(answer.encode(), heard)):
            piece = stream.recv(1024)
            assert piece, f"the console ended after {heard!r}"
            heard += piece
        stream.abort()
        return found[0].decode()

    def process(self, node: str) -> str:
        return (self.lab.folder / "run/libvirt/qemu" / f"small-{node}.pid").read_text().strip()

    def picture(self, *nodes: str) -> dict[str, object]:
        """Snapshot of the processes, definitions and files of nodes. Equal snapshots mean that nothing has changed."""
        found: dict[str, object] = {}
        for node in nodes:
            found[node] = (self.process(node), self.connection.lookupByName(f"small-{node}").XMLDesc())
        shared = [path for path in self.folder.iterdir() if not re.match(r"etcd\d", path.name)]
        files = [*shared, *(path for node in nodes for path in self.folder.glob(f"{node}.*"))]
        return found | {path.name: path.stat().st_ino for path in files}

    def volumes(self, node: str) -> list[str]:
        return sorted(path.name for path in self.folder.glob(f"{node}.*"))


@pytest.fixture
def world(lab: Any, plan: Make, tiny: Callable[[ClusterPlan], BootImage], tmp_path: Path) -> Iterator[World]:
    links = sorted(name for _, name in socket.if_nameindex())
    made = World(lab, plan, tiny(plan(name="small", nodes=3)), tmp_path)
    yield made
    vm.LibvirtHosts(connection=made.connection).destroy("small", cluster_id="id1")
    assert sorted(name for _, name in socket.if_nameindex()) == links
    assert not made.folder.exists()
    assert subprocess.run(["pgrep", "-f", "guest=small-"], check=False).returncode == 1


def test_a_third_vm_comes_and_goes_beside_two_running_ones(world: World) -> None:
    assert world.engine(2).create("etcd1", "etcd2") == ("etcd1", "etcd2")
    world.wait_ready("etcd1", "etcd2")
    before = world.picture("etcd1", "etcd2")

    assert world.engine(3).create("etcd3") == ("etcd3",)
    world.wait_ready("etcd3")
    assert world.picture("etcd1", "etcd2") == before
    assert sum("uploading the image's base" in line for line in world.said) == 1
    seen = world.engine(2).machines()
    assert [(one.node, one.state, one.planned) for one in seen.values()] == [
        ("etcd1", State.RUNNING, True),
        ("etcd2", State.RUNNING, True),
        ("etcd3", State.RUNNING, False),
    ]
    assert seen["etcd3"].disk_size == 2 << 30

    volumes = world.volumes("etcd3")
    assert len(volumes) == 5, "disk, data disk, seed, console log and journal"
    assert world.engine(2).remove("etcd3") == ("small-etcd3", *volumes)
    assert world.volumes("etcd3") == []
    assert world.engine(2).remove("etcd3") == ()
    assert list(world.engine(2).machines()) == ["etcd1", "etcd2"]
    assert world.picture("etcd1", "etcd2") == before
    for node in ("etcd1", "etcd2"):
        assert world.ask(node, "alive", "you said alive")


def test_one_vm_restarts_with_more_memory_and_its_new_seed(world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    world.wait_ready("etcd1", "etcd2")
    small = int(world.ask("etcd1", "memory", r"MemTotal: +\d+ kB").split()[1])
    world.ask("etcd1", "listen", "listening\r")
    before, process = world.picture("etcd2"), world.process("etcd1")
    new = b"another seed" * 1000
    world.write_seed("etcd1", new)
    engine = world.engine(memory=512)
    assert engine.machines()["etcd1"].outdated == ("memory",)

    engine.restart("etcd1")

    world.wait_ready("etcd1")
    assert not any("powering it off" in line for line in world.said), "the guest shut down by itself"
    assert world.process("etcd1") != process
    assert int(world.ask("etcd1", "memory", r"MemTotal: +\d+ kB").split()[1]) > small + (200 << 10)
    assert engine.machines()["etcd1"].outdated == ()
    (seed,) = world.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == new
    assert engine.remove_seed("etcd1") is True
    assert len(world.volumes("etcd1")) == 4, "disk, data disk, console log and journal"
    assert world.picture("etcd2") == before


def test_a_restart_completes_after_bake_was_killed(world: World) -> None:
    """The guest does not react to the power button, so the first restart waits until bake is killed."""
    world.engine().create("etcd1")
    world.wait_ready("etcd1")
    process = world.process("etcd1")
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            world.engine(memory=512, patience=300, connection=vm.connect(world.lab.uri)).restart("etcd1")
        os._exit(0)
    time.sleep(3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    engine = world.engine(memory=512, patience=1)
    assert (engine.machines()["etcd1"].state, engine.machines()["etcd1"].outdated) == (State.RUNNING, ("memory",))

    engine.restart("etcd1")

    world.wait_ready("etcd1")
    assert "etcd1: did not shut down within 1 s; powering it off" in world.said
    assert world.process("etcd1") != process
    assert engine.machines()["etcd1"].outdated == ()


def test_a_vm_that_lost_its_disk_is_replaced(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    world.wait_ready("etcd1", "etcd2")
    engine.remove_seed("etcd1")
    world.lab.cut_power("small-etcd1")
    while engine.machines()["etcd1"].state is State.RUNNING:
        time.sleep(0.1)
    assert engine.machines()["etcd1"].state is State.CRASHED
    (world.folder / "etcd1.qcow2").unlink()
    assert not engine.machines()["etcd1"].has_disk
    with pytest.raises(BakeError, match="the disk of etcd1 is missing"):
        engine.restart("etcd1")
    before = world.picture("etcd2")

    engine.replace("etcd1")

    world.wait_ready("etcd1")
    seen = engine.machines()["etcd1"]
    assert (seen.state, seen.has_disk, seen.has_seed) == (State.RUNNING, True, True)
    assert world.picture("etcd2") == before


def test_a_foreign_vm_of_the_same_name_is_refused_and_keeps_running(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    foreign = "<domain type='qemu'><name>small-etcd2</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    domain = world.connection.createXML(foreign)
    try:
        (world.folder / "etcd2.qcow2").write_bytes(b"a disk of this cluster whose VM is gone")
        before = world.picture("etcd1", "etcd2")
        assert engine.machines()["etcd2"].state is State.FOREIGN
        for change in (engine.create, engine.restart, engine.replace, engine.remove, engine.insert_seed):
            with pytest.raises(BakeError, match="the existing VM small-etcd2 was not made by bake"):
                change("etcd2")
        with pytest.raises(BakeError, match="belongs to another cluster named small, with the id "):
            world.engine(cluster_id="id2").remove("etcd1")
        assert world.picture("etcd1", "etcd2") == before
    finally:
        domain.destroy()
