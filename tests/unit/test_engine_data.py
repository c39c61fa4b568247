"""The engine on libvirt's test driver: data disks, and the exchange of a root disk that keeps the data disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from generator.engine import State
from generator.errors import BakeError

libvirt = pytest.importorskip("libvirt")

from generator.vm import engine as engine_module  # noqa: E402
from generator.vm import lifecycle, storage_pool  # noqa: E402
from generator.vm.domain_xml import files_in  # noqa: E402
from tests.unit.test_engine import GIB, World, driver, world  # noqa: E402, F401  fixtures

VM = {"dataDisk": 4}
ROOT, DATA = "etcd1.qcow2", "etcd1.data.qcow2"


@pytest.fixture
def new(world: World) -> World:  # noqa: F811
    """The image that an upgrade brings."""
    world.engine(vm=VM).create("etcd1", "etcd2", "etcd3")
    world.image = replace(world.image, digest="bb", built="2026-11-29T10:00:00Z")
    return world


def mark(world: World, name: str) -> str:  # noqa: F811
    """Return the identity of a volume: the test driver gives each volume a key."""
    return str(storage_pool.find_volume(world.pool(), name).XMLDesc())


def files(world: World, node: str):  # noqa: F811
    return files_in(world.domain(node).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def test_a_new_vm_has_a_data_disk_and_an_older_vm_has_none(world: World) -> None:  # noqa: F811
    world.engine(vm=VM).create("etcd1")
    world.engine().create("etcd2")
    seen = world.engine(vm=VM).machines()
    assert (seen["etcd1"].disk_size, seen["etcd1"].data_size) == (8 * GIB, 4 * GIB)
    assert (seen["etcd2"].has_data_disk, seen["etcd2"].rebuild) == (False, ("vm.dataDisk",))
    assert DATA in world.volumes("etcd1")
    assert files(world, "etcd1").data.endswith(f"/{DATA}")
    assert files(world, "etcd2").data is None


def test_the_data_disk_is_removed_with_its_node_and_with_its_cluster(world: World) -> None:  # noqa: F811
    engine = world.engine(vm=VM)
    engine.create("etcd1", "etcd2")
    assert DATA in engine.remove("etcd1")
    assert world.volumes("etcd1") == []
    assert "etcd2.data.qcow2" in lifecycle.LibvirtHosts(connection=world.driver).destroy("etcd", cluster_id="id1")


def test_a_replaced_node_gets_a_new_data_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    engine = world.engine(vm=VM)
    engine.create("etcd1")
    made = []
    real = storage_pool.make_data_disk
    monkeypatch.setattr(storage_pool, "make_data_disk", lambda *words: made.append(words[1]) or real(*words))
    engine.replace("etcd1")
    assert made == [DATA]


def test_a_restart_or_a_change_of_memory_keeps_the_data_disk(world: World) -> None:  # noqa: F811
    world.engine(vm=VM).create("etcd1")
    world.engine(vm={**VM, "memory": 2048}).restart("etcd1")
    assert files(world, "etcd1").data.endswith(f"/{DATA}")
    assert world.engine(vm={**VM, "memory": 2048}).machines()["etcd1"].outdated == ()


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"vm": {**VM, "disk": 16}}, ("vm.disk",)),
        ({"vm": {**VM, "image": "x.qcow2"}}, ("vm.image",)),
        ({"vm": {**VM, "firmware": "efi"}}, ("vm.firmware",)),
        ({"vm": {"dataDisk": 8}}, ("vm.dataDisk",)),
        ({"vm": {"dataDisk": 0}}, ("vm.dataDisk",)),
        ({"vm": VM, "etcd": {"version": "3.6"}}, ("etcd.version",)),
        ({"vm": VM, "install": {"method": "package"}}, ("install.method",)),
        ({"vm": {**VM, "memory": 2048}}, ()),
    ],
)
def test_a_vm_says_which_fields_its_disks_were_not_made_from(
    change: dict, fields: tuple[str, ...], world: World  # noqa: F811
) -> None:
    world.engine(vm=VM).create("etcd1")
    engine = world.engine(**change)
    assert engine.machines()["etcd1"].rebuild == fields
    engine.restart("etcd1")  # a restart makes no new disk
    assert engine.machines()["etcd1"].rebuild == fields
    if fields != ("vm.dataDisk",):
        engine.reimage("etcd1")
        assert engine.machines()["etcd1"].rebuild == ()


def test_a_vm_of_an_older_bake_needs_no_new_disk(world: World) -> None:  # noqa: F811
    world.engine(vm=VM).create("etcd1")
    domain = world.domain("etcd1")
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    start = text.index(' root="') if ' root="' in text else text.index(" root='")
    quote = text[start + 6]
    world.driver.defineXML(text[:start] + text[text.index(quote, start + 7) + 1 :])
    assert world.engine(vm={**VM, "disk": 16}).machines()["etcd1"].rebuild == ()


def test_a_new_root_disk_comes_from_the_new_image_and_the_data_disk_stays(new: World) -> None:
    engine, before = new.engine(vm=VM), new.picture("etcd1")
    data, seed = mark(new, DATA), new.write_seed("etcd1", b"second")
    engine.reimage("etcd1")
    seen = engine.machines()["etcd1"]
    assert (seen.state, seen.image, seen.built, seen.has_seed) == (State.RUNNING, "bb", "2026-11-29T10:00:00Z", True)
    assert mark(new, DATA) == data
    assert new.drive("etcd1") == [seed, seed]
    uploaded = [name for name in new.pool().listVolumes() if name.startswith("base-")]
    assert len(uploaded) == 2
    after = new.picture("etcd1")
    assert {name: value for name, value in after.items() if name in before} == before
    engine.reimage("etcd2")
    assert sum("uploading the image's base" in line for line in new.said) == 2, "once for each image"


def test_images_without_a_vm_are_removed(new: World) -> None:
    engine = new.engine(vm=VM)
    for node in ("etcd1", "etcd2"):
        engine.reimage(node)
        assert engine.remove_unused_images() == ()
    engine.reimage("etcd3")
    (removed,) = engine.remove_unused_images()
    assert removed.startswith("base-")
    assert [name for name in new.pool().listVolumes() if name.startswith("base-")] != [removed]
    assert engine.remove_unused_images() == ()


@pytest.mark.parametrize("cut", ["stop", "remove", "make_overlay", "start_all"])
@pytest.mark.parametrize("repeat", ["reimage", "create"])
def test_an_interrupted_exchange_is_completed_without_loss(
    cut: str, repeat: str, new: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, engine = mark(new, DATA), new.engine(vm=VM)
    place = {"stop": lifecycle, "start_all": engine_module}.get(cut, storage_pool)
    killed = _killed(getattr(place, cut), only=ROOT if cut in ("remove", "make_overlay") else "")
    with monkeypatch.context() as patch:
        patch.setattr(place, cut, killed)
        with pytest.raises(KeyboardInterrupt):
            engine.reimage("etcd1")
    seen = engine.machines()["etcd1"]
    assert seen.has_data_disk
    assert mark(new, DATA) == data
    getattr(new.engine(vm=VM), repeat)("etcd1")
    seen = engine.machines()["etcd1"]
    assert seen.state is State.RUNNING
    assert seen.image == ("aa" if (cut, repeat) in {("stop", "create"), ("remove", "create")} else "bb")
    assert mark(new, DATA) == data


def _killed(real, only: str):
    def call(*words, **more):
        if only and only not in words:
            return real(*words, **more)
        raise KeyboardInterrupt

    return call


def test_a_node_without_data_disk_or_vm_keeps_its_root_disk(world: World) -> None:  # noqa: F811
    world.engine().create("etcd1")
    before = world.picture()
    with pytest.raises(BakeError, match="etcd1 has no data disk, so its data would be lost"):
        world.engine().reimage("etcd1")
    with pytest.raises(BakeError, match="etcd2 has no VM"):
        world.engine().reimage("etcd2")
    assert world.picture() == before


def test_a_data_disk_with_data_of_a_missing_vm_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    engine = world.engine(vm=VM)
    engine.create("etcd1")
    lifecycle.remove_domain(world.domain("etcd1"))
    world.delete(ROOT)
    monkeypatch.setattr(storage_pool, "_MAX_UNUSED_OVERLAY", -1)
    with pytest.raises(BakeError, match="has data, but its VM does not exist"):
        engine.create("etcd1")
    assert DATA in world.volumes("etcd1")


def test_a_vm_whose_data_disk_is_gone_says_so(world: World) -> None:  # noqa: F811
    engine = world.engine(vm=VM)
    engine.create("etcd1", "etcd2")
    world.delete(DATA)
    assert {name: one.lost_data for name, one in engine.machines().items()} == {
        "etcd1": True, "etcd2": False, "etcd3": False
    }  # fmt: skip


def test_images_of_all_clusters_are_in_use(new: World) -> None:
    new.engine(vm=VM).reimage("etcd1")
    assert lifecycle.LibvirtHosts(connection=new.driver).used_images() == {"aa", "bb"}
