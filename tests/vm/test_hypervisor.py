"""Three small guests on libvirt's QEMU driver: boot, failures, and removal without leftovers."""

from __future__ import annotations

import os
import pty
import re
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from generator import vm
from generator.console_records import Event, Journal, follow
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.operations.inside import console
from generator.plan import ClusterPlan
from generator.vm import acceleration
from generator.vm import boot as boot_module
from generator.vm import engine as engine_module
from generator.vm import storage_pool as pool_module
from generator.vm.console import attach_console
from generator.vm.domain_xml import Accel

Make = Callable[..., ClusterPlan]
NODES = ("etcd1", "etcd2", "etcd3")


class World:
    """A cluster of small guests in the lab, and functions that tests use on the cluster."""

    def __init__(self, lab: Any, connection: Any, plan: ClusterPlan, image: BootImage, seeds: Path) -> None:
        self.lab, self.connection, self.plan, self.image, self.seeds_folder = lab, connection, plan, image, seeds
        self.said: list[str] = []
        self.ready = {Event(node=node.name, phase="configured", detail="tiny") for node in plan.nodes}
        self.names = tuple(node.name for node in plan.nodes)
        self.folder = lab.folder / "lib" / "images" / f"bake-{plan.name}"
        self.write(self.seeds())

    def seeds(self, **changes: bytes) -> Mapping[str, bytes]:
        return {node: changes.get(node, f"seed of {node}".encode() * 1000) for node in NODES}

    def write(self, seeds: Mapping[str, bytes]) -> None:
        for node, seed in seeds.items():
            (self.seeds_folder / node).mkdir(parents=True, exist_ok=True)
            (self.seeds_folder / node / "seed.iso").write_bytes(seed)

    def engine(self, image: BootImage | None = None, **more: Any) -> vm.LibvirtEngine:
        return vm.LibvirtEngine(
            connection=self.connection, plan=self.plan, cluster_id="id1", seeds=self.seeds_folder,
            load_image=lambda: image or self.image, report=self.said.append, **more,
        )  # fmt: skip

    def boot(self, seeds: Mapping[str, bytes] | None = None, *, image: BootImage | None = None) -> tuple[str, ...]:
        self.write(seeds or self.seeds())
        return self.engine(image).create(*self.names)

    def down(self, patience: float = 1) -> tuple[str, ...]:
        return self.engine(patience=patience).shut_down(*self.names)

    def destroy(self) -> tuple[str, ...]:
        return vm.LibvirtHosts(connection=self.connection).destroy(self.plan.name, cluster_id="id1")

    def states(self) -> list[str]:
        return [str(machine.state) for machine in self.engine().machines().values()]

    def events(self, folder: Path) -> Iterator[Event]:
        return follow(self.engine().console_logs(*self.names), Journal(folder), timeout=600)

    def wait_ready(self, folder: Path) -> None:
        seen: set[Event] = set()
        for event in self.events(folder):
            seen.add(event)
            if seen >= self.ready:
                return

    def domain(self, node: str) -> Any:
        return self.connection.lookupByName(f"{self.plan.name}-{node}")

    def type(self, node: str, text: str, until: str = "") -> None:
        stream = self.connection.newStream()
        self.domain(node).openConsole(None, stream, 0)
        stream.send(f"{text}\n".encode())
        heard = b""
        while (until or text).encode() not in heard:  # the guest's terminal echoes its input
            piece = stream.recv(1024)
            assert piece, f"the console ended after {heard!r}"
            heard += piece
        stream.abort()

    def picture(self) -> dict[str, object]:
        """Return a snapshot of all definitions and files. Equal snapshots mean that nothing has changed."""
        things = [*self.connection.listAllDomains(), *self.connection.listAllNetworks()]
        seen: dict[str, object] = {thing.name(): thing.XMLDesc() for thing in things}
        seen.update({pool.name(): pool.UUIDString() for pool in self.connection.listAllStoragePools()})
        images = self.lab.folder / "lib" / "images"
        for path in sorted(images.rglob("*")) if images.exists() else []:
            if "console.log" not in path.name and path.suffix != ".qcow2":
                seen[str(path)] = (path.stat().st_ino, path.stat().st_mtime_ns if path.is_file() else 0)
        return seen

    def links(self) -> list[str]:
        return sorted(name for _, name in socket.if_nameindex())


@pytest.fixture
def build(
    lab: Any, connection: Any, plan: Make, tiny: Callable[[ClusterPlan], BootImage], tmp_path: Path
) -> Iterator[Any]:
    """Return `build(nodes)`, which makes a cluster. After the test, nothing of the cluster may be left."""
    worlds: list[World] = []

    def make(nodes: int) -> World:
        size, network = {"memory": 256, "disk": 2}, {"subnet": "10.123.0.0/24"}
        cluster = plan(name="tiny", nodes=nodes, vm=size, network=network)
        worlds.append(World(lab, connection, cluster, tiny(cluster), tmp_path / "seeds"))
        return worlds[0]

    links = sorted(name for _, name in socket.if_nameindex())
    yield make
    (made,) = worlds
    made.destroy()
    assert made.links() == links
    assert [name for name in made.picture() if "tiny" in name] == []
    assert subprocess.run(["pgrep", "-f", "guest=tiny-"], check=False).returncode == 1


@pytest.fixture
def world(build: Callable[[int], World]) -> World:
    return build(3)


@pytest.fixture
def one(build: Callable[[int], World]) -> World:
    """A cluster with a single guest, for tests that do not need three guests."""
    return build(1)


def test_three_guests_boot_and_a_second_boot_changes_nothing(world: World, tmp_path: Path) -> None:
    assert world.boot() == NODES
    world.wait_ready(tmp_path)
    assert world.states() == ["running"] * 3
    before = world.picture()
    assert world.boot() == ()
    assert world.picture() == before
    for node in NODES:
        assert b"bake: node=" + node.encode() in (tmp_path / node / "console.log").read_bytes()


def test_every_file_of_a_cluster_is_its_owners_alone(world: World) -> None:
    world.boot()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in world.folder.iterdir()}
    # The owner's mark; base, kernel, initrd; disk, data disk, seed, console log, journal.
    assert len(modes) == 1 + 3 + 3 * 5
    assert set(modes.values()) == {0o600}


def test_a_power_cut_is_seen_and_only_that_vm_is_started_again(world: World, tmp_path: Path) -> None:
    world.boot()
    world.wait_ready(tmp_path)
    disk = (world.folder / "etcd2.qcow2").stat().st_ino
    world.lab.cut_power("tiny-etcd2")
    while world.states() != ["running", "crashed", "running"]:
        time.sleep(0.1)
    assert world.boot() == ("etcd2",)
    assert (world.folder / "etcd2.qcow2").stat().st_ino == disk
    world.wait_ready(tmp_path)


def test_a_reboot_inside_the_guest_is_a_second_set_of_records(one: World, tmp_path: Path) -> None:
    one.boot()
    events = one.events(tmp_path)
    assert next(events) in one.ready
    one.type("etcd1", "reboot")
    assert next(events) in one.ready


def test_a_panic_is_reported_with_its_reason(one: World, tmp_path: Path) -> None:
    one.boot()
    events = one.events(tmp_path)
    assert next(events) in one.ready
    one.type("etcd1", "panic")
    event = next(events)
    assert event.phase == "failed"
    assert "sysrq triggered crash" in event.detail


def test_a_panic_of_an_earlier_boot_is_history(one: World, tmp_path: Path) -> None:
    one.boot()
    events = one.events(tmp_path)
    assert next(events) in one.ready
    one.type("etcd1", "panic")
    assert [next(events).phase, next(events).phase] == ["failed", "configured"]
    assert next(one.events(tmp_path)) in one.ready


def test_down_cuts_the_power_of_guests_that_do_not_listen(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    assert one.down() == ("etcd1",)
    assert one.states() == ["stopped"]
    assert any("etcd1: did not shut down within 1 s" in line for line in one.said)
    assert one.down() == ()
    assert one.boot() == ("etcd1",)
    one.wait_ready(tmp_path)


def test_down_is_a_press_of_the_power_button(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    one.type("etcd1", "listen", until="listening\r")
    assert one.down(patience=300) == ("etcd1",)
    assert one.states() == ["stopped"]
    assert not any("powering it off" in line for line in one.said)


def test_a_new_seed_of_a_stopped_vm_replaces_the_old_one(one: World) -> None:
    one.boot()
    one.down()
    new = one.seeds(etcd1=b"another seed" * 500)
    one.boot(new)
    (seed,) = one.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == new["etcd1"]
    assert str(seed.name) in one.domain("etcd1").XMLDesc()


def test_a_new_seed_of_a_running_vm_waits_for_its_next_start(one: World) -> None:
    one.boot()
    new = one.seeds(etcd1=b"another seed" * 500)
    before = one.picture()
    assert one.boot(new) == ()
    assert one.picture() == before
    one.down()
    one.boot(new)
    (seed,) = one.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == new["etcd1"]


def test_sealing_exchanges_the_cd_of_a_running_vm_and_nothing_else(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    new = one.seeds(etcd1=b"without a permit" * 500)
    definition = one.domain("etcd1").XMLDesc()
    one.write(new)
    assert one.engine().replace_seed("etcd1") is True
    (seed,) = one.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == new["etcd1"]
    process = (one.lab.folder / "run/libvirt/qemu/tiny-etcd1.pid").read_text().strip()
    files = one.lab.run("exec", "find", f"/proc/{process}/fd", "-lname", "*.iso*", "-printf", "%l\n").stdout
    assert {Path(name).name for name in files.splitlines()} == {seed.name}
    changed = set(one.domain("etcd1").XMLDesc().splitlines()) - set(definition.splitlines())
    assert all("<source file=" in line or "<bake:owner" in line for line in changed)
    one.type("etcd1", "still there")
    before = one.picture()
    assert one.engine().replace_seed("etcd1") is False
    assert one.boot(new) == ()
    assert one.picture() == before
    one.down()
    assert one.boot(new) == ("etcd1",)
    one.wait_ready(tmp_path)


def test_an_emptied_drive_stays_empty_until_there_is_another_seed(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    assert one.engine().remove_seed("etcd1") is True
    assert list(one.folder.glob("etcd1.seed-*.iso")) == []
    before = one.picture()
    assert one.boot() == ()
    assert one.picture() == before
    one.down()
    assert one.boot() == ("etcd1",)
    one.wait_ready(tmp_path)
    assert list(one.folder.glob("etcd1.seed-*.iso")) == []
    new = one.seeds(etcd1=b"renewed" * 500)
    one.write(new)
    assert one.engine().insert_seed("etcd1") is True
    (seed,) = one.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == new["etcd1"]
    one.type("etcd1", "still there")


def test_a_vm_that_lost_its_disk_gets_another_and_its_seed_again(one: World, tmp_path: Path) -> None:
    one.boot()
    one.engine().remove_seed("etcd1")
    one.down()
    (one.folder / "etcd1.qcow2").unlink()
    assert one.boot() == ("etcd1",)
    assert any("the disk is missing" in line for line in one.said)
    one.wait_ready(tmp_path)
    (seed,) = one.folder.glob("etcd1.seed-*.iso")
    assert seed.read_bytes() == one.seeds()["etcd1"]


def test_another_image_does_not_touch_the_disks_that_are_there(one: World) -> None:
    one.boot()
    one.down()
    before = one.picture()
    one.boot(image=replace(one.image, digest="other"))
    assert one.picture().keys() == before.keys()


STEPS = [
    (pool_module, "put", 0),
    (pool_module, "put", 3),
    (pool_module, "make_overlay", 2),
    (boot_module, "_start", 1),
    (pool_module, "_send", 1),
]


@pytest.mark.parametrize(("module", "step", "times"), STEPS, ids=[f"{step}-{times}" for _, step, times in STEPS])
@pytest.mark.parametrize("then", ["boot", "destroy"])
def test_ctrl_c_at_any_step_leaves_what_boot_completes_and_destroy_removes(
    module: Any,
    step: str,
    times: int,
    then: str,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = getattr(module, step), []

    def interrupted(*words: Any, **options: Any) -> Any:
        calls.append(step)
        if len(calls) > times:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.boot()
    monkeypatch.undo()
    if then == "boot":
        world.boot()
        assert world.states() == ["running"] * 3
    # The fixture `build` destroys the cluster and checks that nothing is left.


def test_a_disk_whose_vm_is_gone_is_not_overwritten(one: World) -> None:
    one.boot()
    one.down()
    one.domain("etcd1").undefine()
    with (one.folder / "etcd1.qcow2").open("ab") as disk:
        disk.write(b"data" * (1 << 20))
    with pytest.raises(BakeError, match=r"etcd1\.qcow2 has data, but its VM does not exist"):
        one.boot()
    assert (one.folder / "etcd1.qcow2").stat().st_size > 4 << 20


def test_a_foreign_vm_of_the_same_name_is_refused_and_untouched(world: World) -> None:
    foreign = "<domain type='qemu'><name>tiny-etcd2</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    domain = world.connection.defineXML(foreign)
    try:
        before = world.picture()
        with pytest.raises(BakeError, match="the existing VM tiny-etcd2 was not made by bake"):
            world.boot()
        world.destroy()
        assert world.picture() == before
    finally:
        domain.undefine()


def test_a_subnet_that_the_host_has_is_refused_and_nothing_is_left(world: World) -> None:
    subprocess.run(["ip", "link", "add", "lan0", "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", "10.123.0.9/24", "dev", "lan0"], check=True)
    subprocess.run(["ip", "link", "set", "lan0", "up"], check=True)
    try:
        before = world.picture()
        with pytest.raises(BakeError, match="already in use by interface lan0") as error:
            world.boot()
        assert "--subnet" in (error.value.hint or "")
        assert world.picture() == before
    finally:
        subprocess.run(["ip", "link", "del", "lan0"], check=True)


def test_an_address_that_somebody_has_is_refused_before_anything_is_made(world: World) -> None:
    subprocess.run(["ip", "addr", "add", "10.123.0.32/32", "dev", "lo"], check=True)
    try:
        before = world.picture()
        with pytest.raises(BakeError, match=r"another host already uses 10\.123\.0\.32"):
            world.boot()
        assert world.picture() == before
    finally:
        subprocess.run(["ip", "addr", "del", "10.123.0.32/32", "dev", "lo"], check=True)


@pytest.fixture
def broken_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    if acceleration._VIRTUALISES.search(Path("/proc/cpuinfo").read_text()) or not Path("/dev/kvm").exists():
        pytest.skip("needs a machine with a /dev/kvm that does not work")
    monkeypatch.setattr(engine_module, "choose_accel", lambda *_: Accel.KVM)


@pytest.mark.usefixtures("broken_kvm")
def test_a_guest_that_dies_under_kvm_lives_on_emulated(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    assert one.engine().machines()["etcd1"].accel == "tcg"
    assert any("under KVM" in line and "emulating it" in line for line in one.said), one.said
    before = one.picture()
    assert one.boot() == ()  # after a failure of KVM, the VM stays emulated
    assert one.picture() == before


@pytest.mark.usefixtures("broken_kvm")
def test_a_guest_that_kvm_has_stopped_later_is_emulated_at_the_next_start(
    one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(acceleration, "_SILENT_SECONDS", 0)
        one.boot()
    deadline = time.monotonic() + 600
    while one.states() == ["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert one.boot() == ("etcd1",)
    one.wait_ready(tmp_path)
    assert one.engine().machines()["etcd1"].accel == "tcg"


def test_the_console_is_a_terminal_that_ctrl_bracket_leaves(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    master, slave = pty.openpty()
    heard = bytearray()

    def person() -> None:
        os.write(master, b"hello\r")
        while b"you said hello" not in heard:
            heard.extend(os.read(master, 4096))
        os.write(master, b"\x1d")

    typist = threading.Thread(target=person, daemon=True)
    typist.start()
    log = one.engine().console_logs("etcd1")["etcd1"]
    attach_console(one.lab.uri, one.plan.nodes[0], log, keyboard=slave, screen=slave)
    typist.join(timeout=300)
    assert not typist.is_alive()
    assert re.search(rb"bake: node=etcd1 phase=configured.*you said hello", bytes(heard), re.DOTALL)


def test_without_a_terminal_the_console_is_followed_to_the_end(one: World, tmp_path: Path) -> None:
    one.boot()
    one.wait_ready(tmp_path)
    pieces = console.follow(one.engine(), "etcd1")
    text = next(pieces)
    one.type("etcd1", "off")
    text += b"".join(pieces)
    assert b"phase=configured" in text
    assert b"you said off" in text
    assert one.states() == ["stopped"]


@pytest.mark.parametrize(("node", "message"), [("etcd9", "etcd9 has no VM"), ("etcd1", "VM of etcd1 is not running")])
def test_a_console_that_cannot_be_is_explained(node: str, message: str, one: World) -> None:
    one.boot()
    one.down()
    with pytest.raises(BakeError, match=message):
        next(console.follow(one.engine(), node))
