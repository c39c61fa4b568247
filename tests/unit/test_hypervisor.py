"""VMs, networks and pools on libvirt's test driver: bake changes and removes only objects with the cluster's tag."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from generator.engine import State
from generator.errors import BakeError
from generator.plan import ClusterPlan
from generator.vm.domain_xml import (
    Accel,
    Files,
    Owner,
    domain_xml,
    iso_in_drive,
    network_xml,
    read_owner,
    swap_seed,
)
from generator.vm.volume_xml import pool_xml

libvirt = pytest.importorskip("libvirt")

from generator import vm  # noqa: E402
from generator.image.base import BootImage  # noqa: E402
from generator.vm import acceleration, connection, network, seed_drive, storage_pool  # noqa: E402
from generator.vm.console import VolumeLog  # noqa: E402
from generator.vm.ownership import Claim  # noqa: E402
from generator.vm.storage_pool import console_volume  # noqa: E402

Make = Callable[..., ClusterPlan]
FILES = Files(disk="/pool/d.qcow2", seed="/pool/s.iso", console="/pool/c.log", journal="/pool/j.log")
CLAIM = Claim(cluster="etcd", cluster_id="id1")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    """Connect to the test driver. Afterwards remove all objects, because the connections of a process share them."""
    connected = vm.connect("test:///default")
    connected.folder = tmp_path  # for an image and seeds
    yield connected
    for domain in connected.listAllDomains():
        if domain.name() != "test":
            domain.destroy() if domain.isActive() else None
            domain.undefine()
    for kind in (connected.listAllNetworks(), connected.listAllStoragePools()):
        for thing in kind:
            if thing.name() not in ("default", "default-pool"):
                thing.destroy() if thing.isActive() else None
                thing.undefine()


def owner(node: str = "", **changes: str) -> Owner:
    return Owner(**{"cluster": "etcd", "cluster_id": "id1", "version": "1", "node": node, **changes})  # type: ignore[arg-type]


def define(driver: Any, plan: ClusterPlan, tag: Owner | None, *, start: bool = False) -> Any:
    xml = domain_xml(plan, plan.nodes[0], FILES, Accel.TCG, tag or owner())
    if tag is None:
        xml = xml[: xml.index("<metadata>")] + xml[xml.index("</metadata>") + len("</metadata>") :]
    domain = driver.defineXML(xml)
    if start:
        domain.create()
    return domain


def picture(driver: Any) -> list[tuple[str, str, bool]]:
    """The definitions of all objects of this libvirt."""
    things = [*driver.listAllDomains(), *driver.listAllNetworks(), *driver.listAllStoragePools()]
    return sorted((thing.name(), thing.XMLDesc(), bool(thing.isActive())) for thing in things)


def engine_of(driver: Any, plan: ClusterPlan, seed: bytes = b"", digest: str = "aa", **more: Any) -> vm.LibvirtEngine:
    """Return an engine, after writing an image and a seed for each node."""
    (disk := driver.folder / "disk").write_bytes(b"disk")
    for node in plan.nodes:
        (driver.folder / node.name).mkdir(exist_ok=True)
        (driver.folder / node.name / "seed.iso").write_bytes(seed)
    image = BootImage(disk=disk, format="raw", virtual_size=4, digest=digest)
    return vm.LibvirtEngine(
        **{
            "connection": driver, "plan": plan, "cluster_id": "id1", "seeds": driver.folder, "report": print,
            "load_image": lambda: image, "accel": "tcg", "remedy": "bake seal".format, **more,
        }
    )  # fmt: skip


def try_boot(driver: Any, plan: ClusterPlan) -> None:
    engine_of(driver, plan).create(*(node.name for node in plan.nodes))


def destroy(driver: Any, cluster_id: str = "") -> tuple[str, ...]:
    return vm.LibvirtHosts(connection=driver).destroy("etcd", cluster_id=cluster_id)


# --- the owner of an object ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (None, "the existing VM etcd-etcd1 was not made by bake"),
        (owner("etcd1", cluster="other"), "belongs to the cluster other"),
        (owner("etcd1", cluster_id="id2"), "belongs to another cluster named etcd, with the id id2"),
    ],
    ids=["untagged", "another cluster's", "another CA's"],
)
def test_a_vm_of_another_owner_is_refused_and_unchanged(
    tag: Owner | None, message: str, driver: Any, plan: Make
) -> None:
    define(driver, plan(), tag, start=True)
    before = picture(driver)
    with pytest.raises(BakeError, match=message):
        try_boot(driver, plan())
    with pytest.raises(BakeError, match=message):
        engine_of(driver, plan()).shut_down("etcd1")
    assert destroy(driver, "id1") == ()
    assert picture(driver) == before
    assert engine_of(driver, plan()).machines()["etcd1"].state is State.FOREIGN


def test_a_vm_with_the_nodes_uuid_and_another_name_is_refused(driver: Any, plan: Make) -> None:
    node = plan().nodes[0]
    rest = "<memory>1</memory><os><type>hvm</type></os>"
    driver.defineXML(f"<domain type='test'><name>x</name><uuid>{node.uuid}</uuid>{rest}</domain>")
    with pytest.raises(BakeError, match="the existing VM x was not made by bake"):
        try_boot(driver, plan())


def test_a_network_of_another_owner_with_the_clusters_name_is_refused(driver: Any, plan: Make) -> None:
    driver.networkDefineXML("<network><name>bake-etcd</name><ip address='10.9.9.1' prefix='24'/></network>")
    before = picture(driver)
    with pytest.raises(
        BakeError, match="the existing network bake-etcd was not made by bake"
    ):
        try_boot(driver, plan())
    assert destroy(driver) == ()
    assert picture(driver) == before


def test_a_pool_of_another_owner_with_the_clusters_name_is_refused(driver: Any, plan: Make) -> None:
    driver.storagePoolDefineXML(
        "<pool type='dir'><name>bake-etcd</name><target><path>/x</path></target></pool>"
    )
    before = picture(driver)
    with pytest.raises(BakeError, match="the storage pool bake-etcd was not made by bake"):
        try_boot(driver, plan())
    with pytest.raises(BakeError, match="was not made by bake"):
        destroy(driver)
    assert picture(driver) == before


def test_a_pool_of_another_ca_is_refused(driver: Any) -> None:
    storage_pool.ensure_pool(driver, CLAIM)
    hint = "remove it with `bake destroy --name etcd --out FOLDER`; FOLDER is the other cluster's output folder"
    with pytest.raises(BakeError, match=f"another cluster named etcd, with the id .*\n.*{hint}"):
        storage_pool.find_pool(driver, Claim(cluster="etcd", cluster_id="id2"))
    assert storage_pool.find_pool(driver, Claim(cluster="etcd")) is not None


def test_destroy_removes_all_objects_of_the_cluster_and_no_others(driver: Any, plan: Make) -> None:
    before = picture(driver)
    define(driver, plan(), owner("etcd1"), start=True)
    driver.networkDefineXML(network_xml(plan().network, owner())).create()
    storage_pool.ensure_pool(driver, CLAIM)
    other = plan(name="other", network={"subnet": "10.7.0.0/24"})
    define(driver, other, owner("etcd1", cluster="other"), start=True)
    removed = destroy(driver, "id1")
    assert {"etcd-etcd1", "bake-etcd"} <= set(removed)
    left = [thing for thing in picture(driver) if thing not in before]
    assert [name for name, _, _ in left] == ["other-etcd1"]
    assert destroy(driver, "id1") == ()


def test_destroy_finds_vms_that_are_no_longer_in_the_plan(driver: Any, plan: Make) -> None:
    define(driver, plan(nodes=[{"name": "gone"}]), owner("gone"), start=True)
    assert destroy(driver) == ("etcd-gone",)


def test_destroy_leaves_a_file_that_bake_did_not_make(driver: Any) -> None:
    made = storage_pool.ensure_pool(driver, CLAIM)
    made.createXML("<volume><name>holiday.jpg</name><capacity>1</capacity></volume>")
    with pytest.raises(BakeError, match=r"bake did not make: holiday\.jpg"):
        destroy(driver)
    assert "holiday.jpg" in made.listVolumes()


def test_destroy_keeps_a_network_that_another_vm_uses(driver: Any, plan: Make) -> None:
    driver.networkDefineXML(network_xml(plan().network, owner())).create()
    other = plan(name="other")
    xml = domain_xml(other, other.nodes[0], FILES, Accel.TCG, owner(cluster="other"))
    driver.defineXML(xml.replace('"bake-other"', '"bake-etcd"')).create()
    with pytest.raises(BakeError, match="other-etcd1 run on the network bake-etcd"):
        destroy(driver)


def test_the_pool_is_next_to_the_pool_named_default(driver: Any) -> None:
    driver.storagePoolDefineXML(
        "<pool type='dir'><name>default</name><target><path>/srv/vms</path></target></pool>"
    )
    made = storage_pool.ensure_pool(driver, CLAIM)
    driver.storagePoolLookupByName("default").undefine()
    assert storage_pool.path_of(made, "x") == "/srv/vms/bake-etcd/x"


def test_an_existing_pool_is_used_unchanged(driver: Any) -> None:
    driver.storagePoolDefineXML(pool_xml("etcd", "/elsewhere"))  # the state after an interrupted boot
    assert storage_pool.path_of(storage_pool.ensure_pool(driver, CLAIM), "x") == "/elsewhere/x"
    assert storage_pool.ensure_pool(driver, CLAIM).listVolumes() == ["bake-owner-id1"]


# --- the seed in the drive ----------------------------------------------------------------------------------


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the functions that the test driver lacks: uploads into volumes, and forced changes of drives."""
    real, force = libvirt.virDomain.updateDeviceFlags, libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    monkeypatch.setattr(storage_pool, "_send", lambda *_, **__: None)
    monkeypatch.setattr(libvirt.virDomain, "updateDeviceFlags", lambda *words: real(*words[:2], words[2] & ~force))


def volumes(driver: Any) -> list[str]:
    made = storage_pool.ensure_pool(driver, CLAIM)
    return sorted(name for name in made.listVolumes() if name.endswith(".iso"))


def first_seed(driver: Any, plan: ClusterPlan, *, cluster_id: str = "id1") -> Any:
    """The VM of etcd1 with a seed that contains the bootstrap permit."""
    made = storage_pool.ensure_pool(driver, CLAIM)
    name = seed_drive.seed_volume("etcd1", sha256(b"with permit").hexdigest())
    storage_pool.put(made, name, b"with permit")
    files = replace(FILES, seed=storage_pool.path_of(made, name))
    tag = owner("etcd1", seed=sha256(b"with permit").hexdigest(), config="c", image="i", cluster_id=cluster_id)
    return driver.defineXML(domain_xml(plan, plan.nodes[0], files, Accel.TCG, tag))


def exchange(driver: Any, plan: ClusterPlan, seed: bytes = b"without") -> bool | None:
    return engine_of(driver, plan, seed).replace_seed("etcd1")


@pytest.mark.usefixtures("uploads")
def test_a_stopped_vm_gets_another_seed_and_the_old_seed_is_deleted(driver: Any, plan: Make) -> None:
    before = first_seed(driver, plan()).XMLDesc()
    old = read_owner(before)
    assert exchange(driver, plan()) is True
    xml = driver.lookupByName("etcd-etcd1").XMLDesc()
    digest = sha256(b"without").hexdigest()
    (name,) = volumes(driver)
    assert name == seed_drive.seed_volume("etcd1", digest)
    assert iso_in_drive(xml).endswith(f"/{name}")
    assert old is not None
    assert read_owner(xml) == replace(old, seed=digest)
    changed = [line for line in xml.splitlines() if line not in before.splitlines()]
    assert len(changed) == 2  # the tag and the ISO
    before = picture(driver)
    assert exchange(driver, plan()) is False
    assert picture(driver) == before


@pytest.mark.usefixtures("uploads")
def test_a_running_vm_gets_another_seed_at_once_and_for_its_next_start(driver: Any, plan: Make) -> None:
    first_seed(driver, plan()).create()
    assert exchange(driver, plan()) is True
    domain = driver.lookupByName("etcd-etcd1")
    assert domain.isActive()
    (name,) = volumes(driver)
    assert name == seed_drive.seed_volume("etcd1", sha256(b"without").hexdigest())
    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        assert iso_in_drive(domain.XMLDesc(flags)).endswith(f"/{name}")
    before = picture(driver)
    assert exchange(driver, plan()) is False
    assert picture(driver) == before


@pytest.mark.usefixtures("uploads")
def test_an_iso_that_cannot_be_replaced_is_an_error_with_a_remedy(
    driver: Any, plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_seed(driver, plan()).create()

    def refuse(*_: object) -> None:
        raise libvirt.libvirtError("the tray is locked")

    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virDomain, "updateDeviceFlags", refuse)
        with pytest.raises(BakeError, match="the drive of the running VM etcd-etcd1: the tray is locked") as error:
            exchange(driver, plan())
    assert "bake seal" in (error.value.hint or "")
    assert len(volumes(driver)) == 2  # the ISO in the drive is not deleted
    assert exchange(driver, plan()) is True
    assert len(volumes(driver)) == 1


@pytest.mark.usefixtures("uploads")
def test_the_seed_of_another_owners_vm_is_not_replaced(driver: Any, plan: Make) -> None:
    assert exchange(driver, plan()) is None
    first_seed(driver, plan(), cluster_id="id2")
    before = picture(driver)
    assert exchange(driver, plan()) is None
    assert picture(driver) == before


def take_out(driver: Any, plan: ClusterPlan) -> bool:
    return engine_of(driver, plan).remove_seed("etcd1")


@pytest.mark.usefixtures("uploads")
@pytest.mark.parametrize("runs", [True, False])
def test_a_removed_seed_is_deleted_and_the_drive_stays_empty(driver: Any, plan: Make, runs: bool) -> None:
    domain = first_seed(driver, plan())
    if runs:
        domain.create()
    assert take_out(driver, plan()) is True
    domain = driver.lookupByName("etcd-etcd1")
    assert [iso_in_drive(domain.XMLDesc(flags)) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)] == ["", ""]
    assert volumes(driver) == []
    tag = read_owner(domain.XMLDesc())
    assert tag is not None
    assert tag.seed == sha256(b"with permit").hexdigest(), "the tag keeps the seed that configured the node"
    before = picture(driver)
    assert take_out(driver, plan()) is False
    assert picture(driver) == before


@pytest.mark.usefixtures("uploads")
def test_a_newer_seed_that_a_running_vm_has_not_read_stays(driver: Any, plan: Make) -> None:
    domain = first_seed(driver, plan())
    domain.create()
    made = storage_pool.ensure_pool(driver, CLAIM)
    storage_pool.put(made, name := seed_drive.seed_volume("etcd1", sha256(b"newer").hexdigest()), b"newer")
    waiting = swap_seed(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), storage_pool.path_of(made, name), "newer")
    driver.defineXML(waiting)
    assert take_out(driver, plan()) is False
    assert iso_in_drive(driver.lookupByName("etcd-etcd1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).endswith(name)
    assert name in volumes(driver)


@pytest.mark.usefixtures("uploads")
def test_sealing_keeps_an_empty_drive_empty_and_a_renewal_inserts_a_seed(
    driver: Any, plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_seed(driver, plan()).create()
    take_out(driver, plan())
    with monkeypatch.context() as patch:
        patch.setattr(storage_pool, "put", lambda *_: pytest.fail("a seed was uploaded for an empty drive"))
        assert exchange(driver, plan()) is True
    assert exchange(driver, plan()) is False
    tag = read_owner(driver.lookupByName("etcd-etcd1").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert tag is not None
    assert (volumes(driver), tag.seed) == ([], sha256(b"without").hexdigest())
    assert engine_of(driver, plan(), b"renewed").insert_seed("etcd1") is True
    (name,) = volumes(driver)
    assert name == seed_drive.seed_volume("etcd1", sha256(b"renewed").hexdigest())
    domain = driver.lookupByName("etcd-etcd1")
    assert all(iso_in_drive(domain.XMLDesc(flags)).endswith(name) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE))


# --- booting again ------------------------------------------------------------------------------------------


@pytest.fixture
def machines(driver: Any, plan: Make, uploads: None) -> Callable[..., tuple[str, ...]]:
    """Return a function that boots two nodes: `machines(digest="bb")` uses an image with this digest."""
    said: list[str] = []

    def start(digest: str = "aa", seed: bytes = b"seed", **options: Any) -> tuple[str, ...]:
        engine = engine_of(driver, options.pop("plan", plan(nodes=2)), seed, digest, report=said.append, **options)
        return engine.create(*(node.name for node in engine.plan.nodes))

    start.said = said  # type: ignore[attr-defined]
    return start


def stop(driver: Any) -> None:
    for domain in driver.listAllDomains():
        if domain.name() != "test" and domain.isActive():
            domain.destroy()


def named_volumes(driver: Any, node: str = "etcd1") -> list[str]:
    """The disks and ISOs in the definition for the next start of a node's VM."""
    xml = driver.lookupByName(f"etcd-{node}").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    return [source.get("file") for source in ElementTree.fromstring(xml).iterfind("devices/disk/source")]  # noqa: S314  libvirt wrote it


@pytest.mark.parametrize("seed", [b"seed", b"another seed"], ids=["the same seed", "another seed"])
def test_the_vm_of_a_settled_node_with_another_image_names_no_deleted_volume(
    seed: bytes, driver: Any, plan: Make, machines: Callable[..., Any]
) -> None:
    assert machines() == ("etcd1", "etcd2")
    assert take_out(driver, plan(nodes=2)) is True
    stop(driver)
    assert machines(digest="bb", seed=seed) == ("etcd1", "etcd2")
    place = storage_pool.ensure_pool(driver, CLAIM)
    there = {storage_pool.path_of(place, name) for name in place.listVolumes()}
    assert set(named_volumes(driver)) <= there
    assert len(named_volumes(driver)) == (2 if seed == b"seed" else 3), "disks, and a new seed"


# --- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subnet", ["192.168.122.0/24", "192.168.122.128/25", "192.168.0.0/16"])
def test_a_subnet_of_another_network_is_refused(subnet: str, driver: Any, plan: Make) -> None:
    cluster = plan(network={"subnet": subnet}, nodes=1)
    with pytest.raises(BakeError, match=r"overlaps with 192\.168\.122\.0/24 of the network default"):
        network.refuse_overlap(driver, cluster.network)


def test_a_bridge_of_another_network_is_refused(driver: Any, plan: Make) -> None:
    cluster = plan()
    driver.networkDefineXML(f"<network><name>x</name><bridge name='{cluster.network.bridge}'/></network>")
    with pytest.raises(BakeError, match=r"the bridge .* belongs to the network x"):
        network.refuse_overlap(driver, cluster.network)


def test_the_network_is_created_once(driver: Any, plan: Make) -> None:
    cluster = plan()
    network.ensure_network(driver, cluster, CLAIM, owner())
    before = picture(driver)
    network.ensure_network(driver, cluster, CLAIM, owner())
    assert picture(driver) == before


def test_a_changed_network_is_recreated_only_if_no_vm_uses_it(driver: Any, plan: Make) -> None:
    network.ensure_network(driver, plan(), CLAIM, owner())
    changed = plan(network={"subnet": "10.8.0.0/24"})
    domain = define(driver, plan(), owner("etcd1"), start=True)
    with pytest.raises(BakeError, match="bake-etcd cannot change while etcd-etcd1 use it"):
        network.ensure_network(driver, changed, CLAIM, owner())
    domain.destroy()
    network.ensure_network(driver, changed, CLAIM, owner())
    assert "10.8.0.1" in driver.networkLookupByName("bake-etcd").XMLDesc()


def test_a_network_is_recreated_to_start_a_dns_server_but_not_to_stop_one(driver: Any, plan: Make) -> None:
    with_dns, without = plan(), plan(network={"dns": ["9.9.9.9"]})
    network.ensure_network(driver, without, CLAIM, owner())
    user = define(driver, without, owner(), start=True)
    with pytest.raises(BakeError, match="the network bake-etcd cannot change while etcd-etcd1 use it"):
        network.ensure_network(driver, with_dns, CLAIM, owner())
    user.destroy()
    network.ensure_network(driver, with_dns, CLAIM, owner())
    user.create()
    network.ensure_network(driver, without, CLAIM, owner())
    assert '<dns enable="yes"' in driver.networkLookupByName("bake-etcd").XMLDesc().replace("'", '"')


def test_an_address_that_answers_is_refused() -> None:
    with pytest.raises(BakeError, match=r"another host already uses 127\.0\.0\.77"):
        network.refuse_used_addresses([ip_address("127.0.0.77")])


def test_an_ipv6_address_that_answers_is_refused() -> None:
    with pytest.raises(BakeError, match="another host already uses ::1"):
        network.refuse_used_addresses([ip_address("::1")])


def test_a_timeout_or_a_missing_route_is_not_an_answer() -> None:
    network.refuse_used_addresses([])
    network.refuse_used_addresses([ip_address("127.255.255.255")])


# --- the connection and the accelerator ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("qemu+unix:///system?socket=/nonexistent/socket", "start libvirtd"),
        ("nonsense:///x", "--connect takes a libvirt URI"),
        (":/:", "--connect takes a libvirt URI"),
    ],
)
def test_no_connection_is_explained(uri: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BakeError, match="cannot connect to") as error:
        vm.connect(uri)
    assert error.value.hint is not None
    assert hint in error.value.hint
    assert capfd.readouterr() == ("", "")  # libvirt prints nothing to stderr


def test_a_permission_error_explains_who_may_use_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = libvirt.libvirtError("x")
    refusal.err = (
        38,
        7,
        "Failed to connect socket to '/run/x': Permission denied",
        2,
        "",
        None,
        None,
        13,
        -1,
    )
    monkeypatch.setattr(connection.libvirt, "open", lambda _uri: (_ for _ in ()).throw(refusal))
    with pytest.raises(BakeError) as error:
        vm.connect(None)
    assert error.value.hint is not None
    assert "group libvirt" in error.value.hint


def test_without_the_libvirt_module_the_hint_is_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "libvirt", None)
    with pytest.raises(BakeError, match="libvirt is not installed") as error:
        vm.connect(None)
    assert "apt-get install" in (error.value.hint or "")


def test_the_package_can_be_imported_without_the_libvirt_module() -> None:
    # The import runs in a separate process: in this process, a second copy of the package would stay loaded.
    code = "import sys; sys.modules['libvirt'] = None; from generator import vm; vm.connect(None)"
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert "BakeError: the Python module libvirt is not installed" in result.stderr


def failure(text: str, code: str = "VIR_ERR_INTERNAL_ERROR") -> Exception:
    """Return an error like those that libvirt raises."""
    error: Exception = libvirt.libvirtError(text)
    error.err = (getattr(libvirt, code), 10, text, 2, "", None, None, -1, -1)  # type: ignore[attr-defined]
    return error


def refuse_kvm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make every start of a VM with KVM fail with the error `text`."""
    real = libvirt.virDomain.create

    def create(domain: Any) -> int:
        if "<domain type='kvm'" in domain.XMLDesc():
            raise failure(text)
        return int(real(domain))

    monkeypatch.setattr(libvirt.virDomain, "create", create)


@pytest.fixture
def broken_kvm(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr("generator.vm.engine.choose_accel", lambda *_: Accel.KVM)
    return lambda text: refuse_kvm(monkeypatch, text)


def test_a_failed_start_without_a_kvm_error_is_not_retried_with_emulation(
    driver: Any, machines: Callable[..., Any], broken_kvm: Callable[[str], None]
) -> None:
    broken_kvm("Could not open '/srv/bake-etcd/etcd1.qcow2': Permission denied")
    with pytest.raises(BakeError, match=r"could not start the VM etcd-etcd1: Could not open .* Permission denied"):
        machines(accel="auto")
    assert not any("KVM" in line for line in machines.said)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["Could not access KVM kernel module", "kvm_buf_set_msrs: Assertion failed"])
def test_a_vm_that_kvm_cannot_start_is_emulated_and_the_reason_is_reported(
    text: str, driver: Any, machines: Callable[..., Any], broken_kvm: Callable[[str], None]
) -> None:
    broken_kvm(text)
    assert machines(accel="auto") == ("etcd1", "etcd2")
    assert f"etcd1: does not start under KVM ({text}); emulating it, which is slow" in machines.said  # type: ignore[attr-defined]
    assert all("<domain type='qemu'" in driver.lookupByName(f"etcd-{node}").XMLDesc() for node in ("etcd1", "etcd2"))


def test_a_cluster_with_kvm_in_its_name_does_not_cause_emulation(
    driver: Any, plan: Make, machines: Callable[..., Any], broken_kvm: Callable[[str], None]
) -> None:
    broken_kvm("Could not open '/srv/bake-kvm/etcd1.qcow2': Permission denied")
    with pytest.raises(BakeError, match="could not start the VM kvm-etcd1"):
        machines(accel="auto", plan=plan(name="kvm", nodes=1))


class StoppingVm:
    """A VM that stops after this number of queries of its state. `prints`: whether its console has output."""

    def __init__(self, queries: float, *, prints: bool = True) -> None:
        self.queries, self.prints = queries, prints

    def state(self) -> tuple[int, int]:
        self.queries -= 1
        return (libvirt.VIR_DOMAIN_RUNNING if self.queries >= 0 else libvirt.VIR_DOMAIN_SHUTOFF, 0)

    def name(self) -> str:
        return "etcd-etcd1"


class Watch:
    """Calls `find_crashed` with a clock that runs ahead."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.said: list[str] = []

    def crashed(self, *vms: StoppingVm) -> list[Any]:
        self.seconds = 0.0
        clock, sleep = (lambda: self.seconds), self._sleep
        return acceleration.find_crashed(vms, lambda vm: vm.prints, self.said.append, clock=clock, sleep=sleep)

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_all_vms_are_watched_at_the_same_time() -> None:
    watch, healthy, dying = Watch(), [StoppingVm(float("inf")) for _ in range(50)], StoppingVm(3)
    assert watch.crashed(*healthy, dying) == [dying]
    assert watch.seconds == pytest.approx(5, abs=0.2)
    assert len(watch.crashed(StoppingVm(2), StoppingVm(1))) == 2
    assert watch.seconds < 1, "the function returns when no VM runs"
    assert watch.said == []


def test_a_vm_without_console_output_is_watched_longer() -> None:
    watch, late = Watch(), StoppingVm(300, prints=False)
    assert watch.crashed(StoppingVm(300), late) == [late]
    assert watch.seconds == pytest.approx(30, abs=0.2)
    assert watch.said == ["waiting up to 120 s for console output, which shows that KVM works: etcd-etcd1"]
    assert watch.crashed(StoppingVm(float("inf"), prints=False)) == []
    assert watch.seconds == pytest.approx(120, abs=0.2)


# --- the console's log --------------------------------------------------------------------------------------


class FilePool:
    """A storage pool of files. The pool lists the files that existed at its last refresh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: set[str] = set()

    def refresh(self) -> None:
        self.known = {path.name for path in self.folder.iterdir()}

    def storageVolLookupByName(self, name: str) -> Any:  # noqa: N802  libvirt's name
        if name not in self.known:
            raise failure("no such volume", "VIR_ERR_NO_STORAGE_VOL")
        return FileVolume(self.folder / name)


class FileVolume:
    """A volume and its stream in one object."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def info(self) -> tuple[int, int, int]:
        return 0, self.path.stat().st_size, 0

    def connect(self) -> FileVolume:
        return self

    def newStream(self) -> FileVolume:  # noqa: N802
        return self

    def download(self, _stream: object, offset: int, length: int) -> None:
        self.data = self.path.read_bytes()[offset : offset + length]

    def recvAll(self, handler: Any, opaque: Any) -> None:  # noqa: N802
        handler(self, self.data, opaque)

    def finish(self) -> None:
        pass


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / console_volume("etcd1")


def test_reading_a_console_continues_after_its_log_is_renamed(log: Path) -> None:
    console = VolumeLog(lambda: FilePool(log.parent), console_volume("etcd1"))
    assert console.read() == b""
    log.write_bytes(b"one two ")
    assert console.read() == b"one two "
    with log.open("ab") as file:
        file.write(b"three ")
    log.rename(log.with_name(f"{log.name}.0"))
    log.write_bytes(b"four")
    assert console.read() == b"three four"
    assert console.read() == b""
    log.with_name(f"{log.name}.0").unlink()
    log.write_bytes(b"new")  # the VM was started again
    assert console.read() == b"new"


def test_the_renamed_log_of_an_earlier_run_is_deleted(driver: Any, machines: Callable[..., Any]) -> None:
    machines()
    stop(driver)
    place = storage_pool.ensure_pool(driver, CLAIM)
    storage_pool.put(place, f"{console_volume('etcd1')}.0", b"bake: node=etcd1 phase=settled\n")
    machines()
    assert not [name for name in place.listVolumes() if name.endswith(".log.0")]


def test_the_first_read_of_a_console_includes_the_renamed_log(log: Path) -> None:
    log.with_name(f"{log.name}.0").write_bytes(b"bake: node=etcd1 phase=settled\n")
    log.write_bytes(b"noise")
    console = VolumeLog(lambda: FilePool(log.parent), console_volume("etcd1"))
    assert console.read() == b"bake: node=etcd1 phase=settled\nnoise"


# --- libvirt's errors ---------------------------------------------------------------------------------------

COMMANDS = ("up", "status", "seal", "down", "destroy --yes", "console etcd1", "certs rotate")


@pytest.fixture
def libvirt_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Make every query for VMs fail, as if the libvirt daemon ended while bake uses it."""
    image = BootImage(disk=tmp_path / "disk", format="raw", virtual_size=4, digest="aa")
    monkeypatch.setattr("generator.operations.up.boot_image", lambda *_: image)
    monkeypatch.setattr("generator.operations.status.is_answering", lambda *_: True)

    def fail(text: str, domain: int) -> None:
        error = failure(text)
        error.err = (*error.err[:1], domain, *error.err[2:])  # type: ignore[attr-defined]

        def raise_it(*_: object) -> None:
            raise error

        for name in ("lookupByName", "listAllDomains", "storagePoolLookupByName", "networkLookupByName"):
            monkeypatch.setattr(libvirt.virConnect, name, raise_it)

    return fail


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_a_libvirt_error(
    command: str, bake: Callable[..., Any], libvirt_fails: Callable[..., None]
) -> None:
    bake("--nodes", 1)
    libvirt_fails("client socket is closed", libvirt.VIR_FROM_RPC)
    done = bake(*command.split(), "--connect", "test:///default")
    assert (done.code, done.out, "Traceback" in done.err) == (1, "", False)
    assert "client socket is closed" in done.err
    assert "\n  hint: " in done.err


def test_bake_up_says_what_stays_if_it_fails_before_a_vm_starts(
    bake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = BootImage(disk=tmp_path / "disk", format="raw", virtual_size=4, digest="aa")
    monkeypatch.setattr("generator.operations.up.boot_image", lambda *_: image)
    Path("c.yaml").write_text("network: {mode: bridge, bridge: br-none}\n")
    done = bake("up", "--nodes", 1, "--name", "prod", "--config", "c.yaml", "--connect", "test:///default")
    assert (done.code, done.out) == (1, "")
    *_, stays, error, _ = done.err.splitlines()
    assert stays.endswith(
        f"the ISOs in {tmp_path}/out/prod stay: to go on, run bake up --name prod --connect test:///default; "
        "to remove all VMs, run bake destroy --name prod --connect test:///default"
    )
    assert error.startswith("error: the VMs' host has no bridge br-none")
    assert sorted(path.name for path in Path("out").iterdir()) == ["prod"]
    Path("out/prod/sealed").touch()  # another bake has sealed the cluster after this one has read its folder
    monkeypatch.setattr("generator.cli.running_cluster._has_started", lambda _: False)
    done = bake("up", "--name", "prod", "--connect", "test:///default")
    assert "error: the VMs' host has no bridge br-none" in done.err
    assert "bake destroy" not in done.err


@pytest.mark.parametrize(
    ("domain", "hint"),
    [("VIR_FROM_RPC", "start libvirtd on the VMs' host"), ("VIR_FROM_QEMU", "virsh -c test:///default list --all")],
)
def test_an_unexpected_error_names_the_uri_and_a_remedy(
    domain: str, hint: str, bake: Callable[..., Any], libvirt_fails: Callable[..., None]
) -> None:
    bake("--nodes", 1)
    libvirt_fails("out of order", getattr(libvirt, domain))
    done = bake("console", "etcd1", "--connect", "test:///default")
    assert done.err.startswith("error: could not list the cluster's VMs: out of order\n  hint: ")
    assert hint in done.err


def test_status_queries_etcd_if_libvirt_fails_and_connect_is_not_given(
    bake: Callable[..., Any], libvirt_fails: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bake("--nodes", 1)
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    libvirt_fails("client socket is closed", libvirt.VIR_FROM_RPC)
    done = bake("status")
    assert done.code == 0
    assert "unknown" in done.out


class KvmConnection:
    """A local libvirt whose capabilities list KVM."""

    def getDomainCapabilities(self, *_arguments: object) -> str:  # noqa: N802  libvirt's name
        return "<domainCapabilities/>"

    def getURI(self) -> str:  # noqa: N802
        return "qemu:///system"


@pytest.mark.parametrize(
    ("flags", "wish", "chosen"),
    [
        ("vmx sse2", "auto", Accel.KVM),
        ("svm", "kvm", Accel.KVM),
        ("sse2", "auto", Accel.TCG),
        ("vmx", "tcg", Accel.TCG),
    ],
)
def test_kvm_needs_a_cpu_with_vmx_or_svm(flags: str, wish: str, chosen: Accel, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert acceleration.choose_accel(KvmConnection(), wish, print, cpuinfo) is chosen


def test_requested_kvm_that_does_not_work_is_an_error(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : sse2\n")
    with pytest.raises(BakeError, match="neither vmx nor svm"):
        acceleration.choose_accel(KvmConnection(), "kvm", print, cpuinfo)


def test_an_image_larger_than_the_disks_is_refused(driver: Any, plan: Make) -> None:
    image = BootImage(disk=driver.folder / "d", format="raw", virtual_size=9 << 30, digest="aa")
    before = picture(driver)
    with pytest.raises(BakeError, match=r"the image is 9\.0 GiB"):
        engine_of(driver, plan(vm={"disk": 8}), load_image=lambda: image).create("etcd1")
    assert picture(driver) == before
