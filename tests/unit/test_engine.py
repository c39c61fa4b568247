"""The engine on libvirt's test driver: it changes one VM and leaves all others as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from generator.engine import Engine, MachineStatus, State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan
from generator.vm.domain_xml import Accel, Owner, domain_xml, files_in, iso_in_drive, read_owner

libvirt = pytest.importorskip("libvirt")

from generator import vm  # noqa: E402
from generator.vm import lifecycle, network, seed_drive, storage_pool  # noqa: E402
from generator.vm.ownership import Claim  # noqa: E402

Make = Callable[..., ClusterPlan]
GIB = 1 << 30


class World:
    """A cluster in libvirt's test driver, and the engine for a plan of the cluster."""

    def __init__(self, driver: Any, plan: Make, folder: Path) -> None:
        self.driver, self.make, self.folder = driver, plan, folder
        self.said: list[str] = []
        self.loads = 0
        (folder / "disk").write_bytes(b"disk")
        self.image = BootImage(disk=folder / "disk", format="raw", virtual_size=4, digest="aa")

    def engine(self, *, cluster_id: str = "id1", accel: str = "tcg", **fields: Any) -> vm.LibvirtEngine:
        vm_fields = {"dataDisk": 0, **fields.pop("vm", {})}
        plan = self.make(**{"nodes": 3, "vm": vm_fields, **fields})
        for node in plan.nodes:
            if not (self.folder / node.name / "seed.iso").exists():
                self.write_seed(node.name, b"first")
        return vm.LibvirtEngine(
            connection=self.driver,
            plan=plan,
            cluster_id=cluster_id,
            seeds=self.folder,
            load_image=self.load,
            report=self.said.append,
            accel=accel,
        )

    def load(self) -> BootImage:
        self.loads += 1
        return self.image

    def write_seed(self, node: str, seed: bytes) -> str:
        """Return the name of the seed's volume."""
        (self.folder / node).mkdir(exist_ok=True)
        (self.folder / node / "seed.iso").write_bytes(seed)
        return seed_drive.seed_volume(node, sha256(seed).hexdigest())

    def domain(self, node: str) -> Any:
        return self.driver.lookupByName(f"etcd-{node}")

    def drive(self, node: str) -> list[str]:
        """The names of the ISOs in a node's drive, now and at the next start."""
        definitions = (self.domain(node).XMLDesc(flags) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE))
        return [Path(iso_in_drive(xml)).name for xml in definitions]

    def pool(self) -> Any:
        return storage_pool.ensure_pool(self.driver, Claim(cluster="etcd", cluster_id="id1"))

    def volumes(self, node: str) -> list[str]:
        return storage_pool.volumes_by_node(self.pool()).get(node, [])

    def delete(self, name: str) -> None:
        storage_pool.remove(self.pool(), name)

    def picture(self, *without: str) -> dict[str, object]:
        """Snapshot of all VMs, networks and volumes, except those of the nodes in `without`."""
        found: dict[str, object] = {}
        for thing in (*self.driver.listAllDomains(), *self.driver.listAllNetworks()):
            found[thing.name()] = (thing.XMLDesc(), thing.isActive())
        for pool in self.driver.listAllStoragePools():
            found |= {f"{pool.name()}/{volume.name()}": volume.XMLDesc() for volume in pool.listAllVolumes()}
        names = tuple(f"{start}{node}" for node in without for start in ("etcd-", "bake-etcd/"))
        return {name: value for name, value in found.items() if not name.startswith(names)}


@pytest.fixture
def driver() -> Iterator[Any]:
    """Connect to the test driver. Afterwards remove all objects, because the connections of a process share them."""
    connected = vm.connect("test:///default")
    yield connected
    for domain in connected.listAllDomains():
        if domain.name() != "test":
            domain.destroy() if domain.isActive() else None
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    for kind in (connected.listAllNetworks(), connected.listAllStoragePools()):
        for thing in kind:
            if thing.name() not in ("default", "default-pool"):
                thing.destroy() if thing.isActive() else None
                thing.undefine()


@pytest.fixture
def world(driver: Any, plan: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Replace the functions that the test driver lacks: uploads into volumes, and forced changes of drives."""
    real, force = libvirt.virDomain.updateDeviceFlags, libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    monkeypatch.setattr(network, "_ECHO_SECONDS", 0.01)
    monkeypatch.setattr(storage_pool, "_send", lambda *_, **__: None)
    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", lambda *words: real(*words[:2], words[2] & ~force))
    return World(driver, plan, tmp_path)


def tag(node: str = "", **changes: str) -> Owner:
    return Owner(**{"cluster": "etcd", "cluster_id": "id1", "version": "1", "node": node, **changes})  # type: ignore[arg-type]


def define(world: World, plan: ClusterPlan, node: str, owner: Owner | None) -> Any:
    """Define a VM as another cluster or another tool would, without bake's engine."""
    files = files_in(world.domain("etcd1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    planned = next(one for one in plan.nodes if one.name == node)
    xml = domain_xml(plan, planned, files, Accel.TCG, owner or tag())
    if owner is None:
        xml = xml[: xml.index("<metadata>")] + xml[xml.index("</metadata>") + len("</metadata>") :]
    return world.driver.defineXML(xml)


def test_the_libvirt_engine_has_the_interface(world: World) -> None:
    engine: Engine = world.engine()
    assert engine.machines().keys() == {"etcd1", "etcd2", "etcd3"}


# --- machines -------------------------------------------------------------------------------------------------


def test_a_planned_node_without_vm_is_missing(world: World) -> None:
    seen = world.engine().machines()
    assert list(seen) == ["etcd1", "etcd2", "etcd3"]
    assert seen["etcd2"] == MachineStatus(node="etcd2", state=State.MISSING)
    assert not seen["etcd2"].has_disk


def test_a_running_vm_has_a_disk_an_image_and_a_seed(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    seen = engine.machines()["etcd1"]
    digest = sha256(b"first").hexdigest()
    assert seen == MachineStatus(
        node="etcd1", state=State.RUNNING, disk_size=8 * GIB, image="aa", seed=digest, has_seed=True, accel="tcg"
    )
    assert seen.has_disk
    engine.remove_seed("etcd1")
    assert engine.machines()["etcd1"] == replace(seen, has_seed=False)


def test_a_stopped_vm_and_a_vm_without_disk_are_seen(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    world.domain("etcd1").destroy()
    world.delete("etcd2.qcow2")
    seen = engine.machines()
    assert (seen["etcd1"].state, seen["etcd1"].has_disk) == (State.STOPPED, True)
    assert (seen["etcd2"].state, seen["etcd2"].has_disk) == (State.RUNNING, False)


def test_nodes_that_are_no_longer_planned_are_seen_after_the_planned_nodes(world: World) -> None:
    world.engine().create("etcd1", "etcd2", "etcd3")
    world.domain("etcd3").destroy()
    world.domain("etcd3").undefine()
    seen = world.engine(nodes=1).machines()
    assert list(seen) == ["etcd1", "etcd2", "etcd3"]
    assert [one.planned for one in seen.values()] == [True, False, False]
    assert [one.state for one in seen.values()] == [State.RUNNING, State.RUNNING, State.MISSING]
    assert seen["etcd3"].has_disk, "the VM is gone, but its volumes are left"


def test_a_vm_without_volumes_that_is_no_longer_planned_is_seen_and_removed(world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    for name in world.volumes("etcd2"):
        world.delete(name)
    engine = world.engine(nodes=1)
    assert (engine.machines()["etcd2"].state, engine.machines()["etcd2"].has_disk) == (State.RUNNING, False)
    assert engine.remove("etcd2") == ("etcd-etcd2",)


@pytest.mark.parametrize("owner", [None, tag("etcd2", cluster="other"), tag("etcd2", cluster_id="id2")])
def test_a_vm_of_another_owner_is_foreign(owner: Owner | None, world: World) -> None:
    world.engine().create("etcd1")
    define(world, world.make(nodes=3), "etcd2", owner)
    assert world.engine().machines()["etcd2"] == MachineStatus(node="etcd2", state=State.FOREIGN, accel="tcg")
    assert "etcd2" not in world.engine(nodes=1).machines()


def test_a_copy_of_a_vm_is_not_the_nodes_vm(world: World) -> None:
    """A copy has the tag of its original."""
    engine = world.engine(nodes=1)
    engine.create("etcd1")
    xml = world.domain("etcd1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    xml = xml.replace("<name>etcd-etcd1<", "<name>copy<").replace('node="etcd1"', 'node="etcd9"')
    xml = xml.replace(str(engine.plan.nodes[0].uuid), "11111111-2222-4333-8444-555555555555")
    copy = world.driver.defineXML(xml.replace(engine.plan.nodes[0].mac, "52:54:00:00:00:01"))
    assert list(engine.machines()) == ["etcd1"]
    assert engine.remove("etcd9") == ()
    assert copy.XMLDesc()


@pytest.mark.parametrize(
    ("change", "outdated"),
    [
        ({"vm": {"memory": 2048}}, ("memory",)),
        ({"vm": {"memory": 2048, "cpus": 2}}, ("memory", "cpus")),
        ({"nodes": [{"name": "etcd1", "mac": "52:54:00:12:34:56"}]}, ("mac",)),
        ({"vm": {"disk": 16}}, ()),
    ],
)
def test_a_vm_that_differs_from_the_plan_says_so_until_it_is_restarted(
    change: dict[str, Any], outdated: tuple[str, ...], world: World
) -> None:
    world.engine().create("etcd1")
    engine = world.engine(**change)
    assert engine.machines()["etcd1"].outdated == outdated
    engine.restart("etcd1")
    assert engine.machines()["etcd1"].outdated == ()


# --- create ---------------------------------------------------------------------------------------------------


def test_a_third_vm_is_created_without_a_change_of_the_others(world: World) -> None:
    small = world.engine(nodes=2)
    assert small.create("etcd2", "etcd1") == ("etcd1", "etcd2")
    assert sum("uploading" in line for line in world.said) == 1
    for name in ("etcd1", "etcd2"):
        world.write_seed(name, b"of three nodes")
    before = world.picture()
    assert world.engine(nodes=3).create("etcd3") == ("etcd3",)
    assert world.picture("etcd3") == before
    assert world.domain("etcd3").isActive()
    assert sum("uploading" in line for line in world.said) == 1, "the image is in the pool already"


def test_a_running_vm_is_not_created_and_needs_no_image(world: World) -> None:
    world.engine().create("etcd1")
    world.write_seed("etcd1", b"second")
    before, world.loads = world.picture(), 0
    assert world.engine(vm={"memory": 2048}).create("etcd1") == ()
    assert (world.picture(), world.loads) == (before, 0)
    assert world.engine().create() == ()


def test_a_stopped_vm_starts_as_planned_without_an_image(world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    world.domain("etcd1").destroy()
    name = world.write_seed("etcd1", b"second")
    before, world.loads = world.picture("etcd1"), 0
    engine = world.engine(vm={"memory": 2048})
    assert engine.create("etcd1") == ("etcd1",)
    assert (engine.machines()["etcd1"].outdated, world.loads) == ((), 0)
    assert (world.drive("etcd1"), world.volumes("etcd1")) == ([name, name], ["etcd1.qcow2", name])
    assert world.picture("etcd1") == before


def test_a_paused_vm_continues(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").suspend()
    assert engine.machines()["etcd1"].state is State.PAUSED
    assert engine.create("etcd1") == ()
    assert engine.machines()["etcd1"].state is State.RUNNING


def test_a_vm_that_was_changed_by_hand_keeps_the_change_until_the_plan_changes(world: World) -> None:
    world.engine().create("etcd1")
    world.domain("etcd1").destroy()
    xml = world.domain("etcd1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    world.driver.defineXML(xml.replace("<on_crash>destroy<", "<on_crash>restart<"))
    world.engine().create("etcd1")
    assert "<on_crash>restart<" in world.domain("etcd1").XMLDesc()
    world.engine(vm={"memory": 2048}).restart("etcd1")
    assert "<on_crash>destroy<" in world.domain("etcd1").XMLDesc()


def test_a_running_vm_that_lost_its_disk_is_not_created(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.delete("etcd1.qcow2")
    before = world.picture()
    assert engine.create("etcd1") == ()
    assert world.picture() == before


def test_a_network_that_is_stopped_or_missing_is_started(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").destroy()
    world.driver.networkLookupByName("bake-etcd").destroy()
    engine.create("etcd1")
    world.domain("etcd1").destroy()
    world.driver.networkLookupByName("bake-etcd").destroy()
    world.driver.networkLookupByName("bake-etcd").undefine()
    engine.create("etcd1")
    assert world.driver.networkLookupByName("bake-etcd").isActive()


def test_a_stopped_vm_that_lost_its_disk_gets_another_and_its_seed_again(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    engine.remove_seed("etcd1")
    world.domain("etcd1").destroy()
    world.delete("etcd1.qcow2")
    assert engine.create("etcd1") == ("etcd1",)
    assert any("etcd1: the disk is missing" in line for line in world.said)
    assert (engine.machines()["etcd1"].has_disk, engine.machines()["etcd1"].has_seed) == (True, True)


def test_a_lost_disk_is_made_from_a_newer_image_that_is_uploaded_first(world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    world.domain("etcd1").destroy()
    world.delete("etcd1.qcow2")
    world.image = replace(world.image, digest="bb")
    engine = world.engine()
    assert engine.create("etcd1") == ("etcd1",)
    seen = engine.machines()
    assert (seen["etcd1"].image, seen["etcd2"].image) == ("bb", "aa")


def test_an_image_that_only_an_unplanned_vm_uses_is_not_uploaded_again(world: World) -> None:
    world.engine(nodes=3).create("etcd3")
    world.said.clear()
    world.engine(nodes=2).create("etcd1")
    assert not any("uploading" in line for line in world.said)


def test_a_disk_with_data_of_a_missing_vm_is_not_overwritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").destroy()
    world.domain("etcd1").undefine()
    monkeypatch.setattr(libvirt.virStorageVol, "info", lambda _: [0, 8 * GIB, 3 << 20])
    with pytest.raises(BakeError, match=r"etcd1\.qcow2 has data, but its VM does not exist") as left:
        engine.create("etcd1")
    delete = "virsh -c test:///default vol-delete --pool bake-etcd etcd1.qcow2"
    assert left.value.hint == f"if you do not need its data: {delete}", "never `bake destroy`: the cluster may run"


def test_only_the_addresses_of_the_named_nodes_must_be_free(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd2")
    world.domain("etcd2").destroy()
    used = {node.address for node in engine.plan.nodes if node.name != "etcd1"}
    monkeypatch.setattr(network, "_answers", lambda address: address in used)
    assert engine.create("etcd1") == ("etcd1",)
    before = world.picture()
    for name in ("etcd2", "etcd3"):
        with pytest.raises(BakeError, match="another host already uses"):
            engine.create(name)
    assert world.picture() == before


def test_every_check_comes_before_the_first_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of four have VMs, which are stopped. The other two have none."""
    world.engine().create("etcd1", "etcd2")
    for name in ("etcd1", "etcd2"):
        world.domain(name).destroy()
    names, before = ("etcd1", "etcd2", "etcd3", "etcd4"), world.picture()
    with monkeypatch.context() as patch:
        patch.setattr(network, "_answers", lambda address: str(address).endswith(".34"))
        with pytest.raises(BakeError, match="another host already uses"):
            world.engine(nodes=4, vm={"memory": 512}).create(*names)
    with pytest.raises(BakeError, match="etcd3, etcd4 need 4096 MiB of memory, but vm has 3072"):
        world.engine(nodes=4).check(*names)
    small, world.image = world.image, replace(world.image, virtual_size=9 * GIB)
    with pytest.raises(BakeError, match=r"the image is 9\.0 GiB"):
        world.engine(nodes=4, vm={"memory": 512}).create(*names)
    world.image = small
    with monkeypatch.context() as patch:
        patch.setattr("generator.vm.engine.choose_accel", fail)
        with pytest.raises(BakeError, match="KVM does not work"):
            world.engine(nodes=4, vm={"memory": 512}, accel="kvm").create(*names)
    (world.folder / "etcd4" / "seed.iso").unlink()
    engine = world.engine(nodes=4, vm={"memory": 512})
    (world.folder / "etcd4" / "seed.iso").unlink()
    with pytest.raises(BakeError, match=r"etcd4/seed\.iso does not exist"):
        engine.create(*names)
    assert world.picture() == before
    assert world.engine(nodes=4, vm={"memory": 512}).create(*names) == names


def fail(*_: object) -> Accel:
    raise BakeError("KVM does not work here")


# --- shut_down --------------------------------------------------------------------------------------------------


def test_running_vms_are_shut_down(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    assert engine.shut_down("etcd1", "etcd2", "etcd3") == ("etcd1", "etcd2")
    assert [one.state for one in engine.machines().values()] == [State.STOPPED, State.STOPPED, State.MISSING]
    assert engine.shut_down("etcd1", "etcd2", "etcd3") == ()


# --- restart ----------------------------------------------------------------------------------------------------


def test_a_restarted_vm_has_the_planned_memory_and_its_new_seed(world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    name = world.write_seed("etcd1", b"second")
    world.image = replace(world.image, digest="bb")
    before, world.loads = world.picture("etcd1"), 0
    engine = world.engine(vm={"memory": 2048, "cpus": 2})
    engine.restart("etcd1")
    seen = engine.machines()["etcd1"]
    assert (seen.state, seen.outdated, seen.image, world.loads) == (State.RUNNING, (), "aa", 0)
    assert (world.drive("etcd1"), world.volumes("etcd1")) == ([name, name], ["etcd1.qcow2", name])
    assert world.picture("etcd1") == before
    assert not any("powering it off" in line for line in world.said)


def test_after_a_restart_nothing_is_left_to_create(world: World) -> None:
    engine = world.engine(nodes=1)
    engine.create("etcd1")
    world.write_seed("etcd1", b"second")
    larger = world.engine(nodes=1, vm={"memory": 2048})
    larger.restart("etcd1")
    before = world.picture()
    assert larger.create("etcd1") == ()
    assert world.picture() == before


def test_the_drive_of_a_node_that_has_applied_its_seed_stays_empty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = world.engine()
    engine.create("etcd1")
    engine.remove_seed("etcd1")
    monkeypatch.setattr(storage_pool, "put", lambda *_: pytest.fail("a seed was uploaded for an empty drive"))
    engine.restart("etcd1")
    assert (world.drive("etcd1"), world.volumes("etcd1")) == (["", ""], ["etcd1.qcow2"])


def test_a_seed_whose_upload_was_interrupted_is_uploaded_again(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    name = world.write_seed("etcd1", b"second")
    storage_pool.put(world.pool(), name, b"")
    engine.restart("etcd1")
    assert world.pool().storageVolLookupByName(name).info()[1] == len(b"second")


def test_a_vm_that_kvm_could_not_run_stays_emulated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.engine().create("etcd1")
    monkeypatch.setattr("generator.vm.engine.choose_accel", lambda *_: Accel.KVM)
    world.engine(accel="auto").restart("etcd1")
    assert "<domain type='qemu'" in world.domain("etcd1").XMLDesc()
    world.engine(accel="kvm").restart("etcd1")
    assert "<domain type='kvm'" in world.domain("etcd1").XMLDesc()


def test_a_seed_that_is_lost_from_the_pool_is_uploaded_again(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    (name,) = set(world.drive("etcd1"))
    world.delete(name)
    engine.restart("etcd1")
    assert name in world.volumes("etcd1")


def test_a_stopped_vm_is_started(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").destroy()
    engine.restart("etcd1")
    assert engine.machines()["etcd1"].state is State.RUNNING


def record(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Return the list into which each later call of these methods of VMs writes the method's name."""
    calls: list[str] = []

    def wrap(name: str) -> Callable[[Any], Any]:
        real = getattr(libvirt.virDomain, name)
        return lambda domain: (calls.append(name), real(domain))[1]

    for name in names:
        monkeypatch.setattr(libvirt.virDomain, name, wrap(name))
    return calls


def test_a_saved_vm_gets_the_new_definition_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.engine().create("etcd1")
    world.domain("etcd1").managedSave(0)
    engine, calls = world.engine(vm={"memory": 2048}), record(monkeypatch, "create", "shutdown")
    engine.restart("etcd1")
    assert calls == ["create", "shutdown", "create"], "the guest continues, and then shuts down cleanly"
    assert not world.domain("etcd1").hasManagedSaveImage()
    assert (engine.machines()["etcd1"].state, engine.machines()["etcd1"].outdated) == (State.RUNNING, ())


def test_a_paused_vm_continues_and_shuts_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").suspend()
    calls = record(monkeypatch, "resume", "shutdown", "create")
    engine.restart("etcd1")
    assert calls == ["resume", "shutdown", "create"]
    assert engine.machines()["etcd1"].state is State.RUNNING
    assert not any("powering it off" in line for line in world.said)


def test_a_vm_that_does_not_shut_down_is_powered_off_with_a_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = world.engine()
    engine.create("etcd1")
    engine.patience = 0.3
    first = world.domain("etcd1").ID()
    monkeypatch.setattr(libvirt.virDomain, "shutdown", lambda _: 0)
    engine.restart("etcd1")
    assert "etcd1: did not shut down within 0 s; powering it off" in world.said
    assert world.domain("etcd1").ID() != first


@pytest.mark.parametrize("repeat", ["restart", "create"])
def test_a_restart_that_is_interrupted_after_the_shutdown_is_completed(
    repeat: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.engine().create("etcd1")
    world.write_seed("etcd1", b"second")
    engine = world.engine(vm={"memory": 2048})

    def stop(*words: Any) -> None:
        lifecycle_stop(*words)
        raise KeyboardInterrupt

    lifecycle_stop = lifecycle.stop
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "stop", stop)
        with pytest.raises(KeyboardInterrupt):
            engine.restart("etcd1")
    assert engine.machines()["etcd1"].state is State.STOPPED
    getattr(engine, repeat)("etcd1")
    seen = engine.machines()["etcd1"]
    assert (seen.state, seen.outdated, seen.seed) == (State.RUNNING, (), sha256(b"second").hexdigest())
    assert len(world.volumes("etcd1")) == 2


def test_a_node_without_vm_or_disk_is_not_restarted(world: World) -> None:
    engine = world.engine()
    with pytest.raises(BakeError, match="etcd1 has no VM") as missing:
        engine.restart("etcd1")
    assert missing.value.hint == "create the VM: bake apply"
    engine.create("etcd1")
    world.delete("etcd1.qcow2")
    before = world.picture()
    with pytest.raises(BakeError, match="the disk of etcd1 is missing") as lost:
        engine.restart("etcd1")
    assert lost.value.hint == "give the node a new VM: bake replace etcd1"
    assert world.picture() == before


# --- remove and replace -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("runs", [True, False])
def test_a_removed_node_leaves_nothing_and_no_other_vm_changes(planned: bool, runs: bool, world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    before = world.picture()
    world.engine().create("etcd3")
    for name in ("etcd3.console.log", "etcd3.console.log.0"):
        storage_pool.put(world.pool(), name, b"log")
    if not runs:
        world.domain("etcd3").destroy()
    engine = world.engine(nodes=3 if planned else 2)
    (seed,) = (name for name in world.volumes("etcd3") if name.endswith(".iso"))
    removed = engine.remove("etcd3")
    assert removed == ("etcd-etcd3", "etcd3.console.log", "etcd3.console.log.0", "etcd3.qcow2", seed)
    assert world.picture() == before
    assert "etcd3" not in world.engine(nodes=2).machines()
    assert engine.remove("etcd3") == ()
    assert world.picture() == before


def test_the_volumes_of_a_vm_that_is_gone_are_removed(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    before = world.picture("etcd1")
    world.domain("etcd1").destroy()
    world.domain("etcd1").undefine()
    assert "etcd1.qcow2" in engine.remove("etcd1")
    assert world.picture() == before


def test_a_vm_that_was_renamed_is_removed_with_its_disk(world: World) -> None:
    world.engine().create("etcd1", "etcd3")
    before = world.picture("etcd3")
    xml = world.domain("etcd3").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    world.domain("etcd3").destroy()
    world.domain("etcd3").undefine()
    world.driver.defineXML(xml.replace("<name>etcd-etcd3<", "<name>spare<")).create()
    engine = world.engine(nodes=2)
    assert engine.machines()["etcd3"].state is State.RUNNING
    assert engine.remove("etcd3")[0] == "spare"
    assert world.picture() == before


def test_only_the_volumes_of_the_named_node_are_removed(world: World) -> None:
    names = [{"name": name, "address": f"192.168.20.{31 + index}"} for index, name in enumerate(("a", "a-1", "b-a"))]
    engine = world.engine(nodes=names, network={"subnet": "192.168.20.0/24"})
    engine.create("a", "a-1", "b-a")
    before = {name: world.volumes(name) for name in ("a-1", "b-a")}
    engine.remove("a")
    assert {name: world.volumes(name) for name in ("a", "a-1", "b-a")} == {"a": [], **before}
    assert "bake-owner-id1" in world.pool().listVolumes()


@pytest.mark.parametrize("name", ["bake-owner-id1", "base", "*", "", "../etcd1"])
def test_a_name_that_is_no_node_removes_nothing(name: str, world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    before = world.picture()
    assert engine.remove(name) == ()
    assert world.picture() == before


def test_a_replaced_node_has_a_new_disk_and_its_seed(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    engine.remove_seed("etcd1")
    storage_pool.put(world.pool(), "etcd1.console.log", b"log")
    before = world.picture("etcd1")
    engine.replace("etcd1")
    seen = engine.machines()["etcd1"]
    assert (seen.state, seen.has_disk, seen.has_seed) == (State.RUNNING, True, True)
    assert "etcd1.console.log" not in world.volumes("etcd1")
    assert world.picture("etcd1") == before


def test_a_node_that_cannot_be_created_is_not_removed(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    before = world.picture()
    world.image = replace(world.image, virtual_size=1 << 40)
    with pytest.raises(BakeError, match=r"the image is 1024\.0 GiB"):
        world.engine().replace("etcd1")
    (world.folder / "etcd1" / "seed.iso").unlink()
    with pytest.raises(BakeError, match=r"seed\.iso does not exist"):
        engine.replace("etcd1")
    with pytest.raises(BakeError, match="etcd9: not a node of the cluster etcd"):
        engine.replace("etcd9")
    assert world.picture() == before


def test_an_interrupted_replacement_is_completed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd1")
    with monkeypatch.context() as patch:
        patch.setattr(vm.LibvirtEngine, "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.replace("etcd1")
    assert engine.machines()["etcd1"] == MachineStatus(node="etcd1", state=State.MISSING)
    engine.replace("etcd1")
    assert engine.machines()["etcd1"].state is State.RUNNING


# --- seeds and consoles ---------------------------------------------------------------------------------------------


def test_a_seed_is_inserted_and_removed(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    name = world.write_seed("etcd1", b"second")
    before = world.picture("etcd1")
    assert engine.insert_seed("etcd1") is True
    assert engine.insert_seed("etcd1") is False
    assert (world.drive("etcd1"), world.volumes("etcd1")) == ([name, name], ["etcd1.qcow2", name])
    assert engine.remove_seed("etcd1") is True
    assert engine.remove_seed("etcd1") is False
    assert (world.drive("etcd1"), world.volumes("etcd1")) == (["", ""], ["etcd1.qcow2"])
    assert world.picture("etcd1") == before


def test_a_seed_is_inserted_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd1")
    drives, real = [], libvirt.virDomain.updateDeviceFlags

    def update(domain: Any, xml: str, flags: int) -> Any:
        drives.append("<source" in xml)
        return real(domain, xml, flags)

    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", update)
    engine.insert_seed("etcd1", again=True)
    assert drives == [False, True]


def test_a_seed_that_cannot_be_inserted_is_an_error_with_the_engines_remedy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = world.engine()
    engine.create("etcd1")
    engine.remedy = "bake certs deliver".format

    def refuse(*_: object) -> None:
        raise libvirt.libvirtError("the tray is locked")

    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", refuse)
    with pytest.raises(BakeError, match="the tray is locked") as error:
        engine.insert_seed("etcd1", again=True)
    assert str(error.value.hint).startswith("try again: bake certs deliver")


def test_a_replaced_seed_leaves_an_empty_drive_empty(world: World) -> None:
    engine = world.engine()
    assert engine.replace_seed("etcd1") is None
    engine.create("etcd1", "etcd2")
    name = world.write_seed("etcd1", b"second")
    before = world.picture("etcd1")
    assert (engine.replace_seed("etcd1"), engine.replace_seed("etcd1")) == (True, False)
    assert (world.drive("etcd1"), world.volumes("etcd1")) == ([name, name], ["etcd1.qcow2", name])
    engine.remove_seed("etcd1")
    world.write_seed("etcd1", b"third")
    assert (engine.replace_seed("etcd1"), engine.replace_seed("etcd1")) == (True, False)
    assert (world.drive("etcd1"), world.volumes("etcd1")) == (["", ""], ["etcd1.qcow2"])
    assert engine.machines()["etcd1"].seed == sha256(b"third").hexdigest(), "a restart does not insert it"
    assert world.picture("etcd1") == before


def test_a_stopped_vm_has_no_console(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.domain("etcd1").destroy()
    with pytest.raises(BakeError, match="the VM of etcd1 is not running"):
        engine.attach("etcd1")


def test_a_seed_needs_a_vm(world: World) -> None:
    for change in (world.engine().insert_seed, world.engine().remove_seed):
        with pytest.raises(BakeError, match="etcd1 has no VM"):
            change("etcd1")


def test_every_node_with_a_vm_has_a_console_log(world: World) -> None:
    log = world.engine().console_logs("etcd1")["etcd1"]
    assert log.read() == b""  # the cluster has no storage pool yet
    world.engine().create("etcd1", "etcd2", "etcd3")
    assert log.read() == b""
    engine = world.engine(nodes=2)
    assert list(engine.console_logs()) == ["etcd1", "etcd2", "etcd3"]
    assert list(engine.console_logs("etcd2")) == ["etcd2"]
    engine.remove("etcd2")
    assert engine.console_logs("etcd2")["etcd2"].read() == b""


# --- other owners ---------------------------------------------------------------------------------------------------

CHANGES = ("create", "restart", "shut_down", "remove", "replace", "reimage", "insert_seed", "remove_seed", "attach")


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (None, "the existing VM etcd-etcd2 was not made by bake"),
        (tag("etcd2", cluster="other"), "belongs to the cluster other"),
        (tag("etcd2", cluster_id="id2"), "belongs to another cluster named etcd, with the id id2"),
    ],
    ids=["untagged", "another cluster's", "another CA's"],
)
def test_a_vm_of_another_owner_is_refused_and_unchanged(
    owner: Owner | None, message: str, method: str, world: World
) -> None:
    engine = world.engine()
    engine.create("etcd1", "etcd2")
    world.domain("etcd2").destroy()
    world.domain("etcd2").undefine()
    define(world, engine.plan, "etcd2", owner)
    before = world.picture()
    with pytest.raises(BakeError, match=message):
        getattr(engine, method)("etcd2")
    assert world.picture() == before


@pytest.mark.parametrize("method", [name for name in CHANGES if name != "shut_down"])
def test_a_cluster_with_the_same_name_and_another_id_is_untouched(method: str, world: World) -> None:
    world.engine().create("etcd1", "etcd2")
    world.domain("etcd2").destroy()
    world.domain("etcd2").undefine()
    other, before = world.engine(cluster_id="id2"), world.picture()
    for node in ("etcd1", "etcd2"):
        with pytest.raises(BakeError):
            getattr(other, method)(node)
    with pytest.raises(BakeError, match="the storage pool bake-etcd belongs to another cluster named etcd"):
        other.machines()
    assert world.picture() == before


def test_a_network_of_another_owner_is_refused_before_a_vm_stops(world: World) -> None:
    engine = world.engine()
    engine.create("etcd1")
    world.driver.networkLookupByName("bake-etcd").destroy()
    world.driver.networkLookupByName("bake-etcd").undefine()
    world.driver.networkDefineXML("<network><name>bake-etcd</name><ip address='10.9.9.1' prefix='24'/></network>")
    before = world.picture()
    for change in (engine.restart, engine.create):
        with pytest.raises(BakeError, match="the existing network bake-etcd was not made by bake"):
            change("etcd2" if change == engine.create else "etcd1")
    assert world.picture() == before


@pytest.mark.parametrize("method", [name for name in CHANGES if name != "remove"])
def test_a_node_that_is_not_planned_is_refused(method: str, world: World) -> None:
    world.engine(nodes=3).create("etcd3")
    engine, before = world.engine(nodes=2), world.picture()
    with pytest.raises(BakeError, match="etcd3: not a node of the cluster etcd") as error:
        getattr(engine, method)("etcd3")
    assert error.value.hint == "the nodes are etcd1, etcd2"
    assert world.picture() == before


def test_a_libvirt_error_is_explained(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    engine.create("etcd1")
    monkeypatch.setattr(
        libvirt.virConnect, "lookupByName", lambda *_: (_ for _ in ()).throw(libvirt.libvirtError("socket is closed"))
    )
    calls = [engine.machines, *((lambda name=name: getattr(engine, name)("etcd1")) for name in CHANGES)]
    for call in calls:
        with pytest.raises(BakeError, match=r"could not .*: socket is closed") as error:
            call()
        assert error.value.hint


def test_the_tag_of_a_created_vm_names_its_node(world: World) -> None:
    world.engine().create("etcd1")
    owner = read_owner(world.domain("etcd1").XMLDesc())
    assert owner is not None
    assert (owner.cluster, owner.cluster_id, owner.node) == ("etcd", "id1", "etcd1")
