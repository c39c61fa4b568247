"""libvirt accepts the XML of bake. The XML contains the plan's values and the owner's tag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from generator.plan import ClusterPlan
from generator.vm.domain_xml import (
    Accel,
    Files,
    Owner,
    domain_xml,
    drive_xml,
    files_in,
    iso_in_drive,
    network_xml,
    pool_uuid,
    read_owner,
    swap_seed,
)
from generator.vm.volume_xml import data_xml, overlay_xml, pool_xml, volume_xml

GOLDEN = Path(__file__).parent.parent / "golden" / "domain"
Make = Callable[..., ClusterPlan]

OWNER = Owner(
    cluster="etcd", cluster_id="0123", version="1.2.3", node="etcd1", image="aa", seed="bb", config="cc"
)
DIRECT = Files(
    disk="/pool/etcd1.qcow2",
    seed="/pool/etcd1.iso",
    console="/pool/etcd1.log",
    journal="/pool/etcd1.j",
    kernel="/pool/kernel",
    initrd="/pool/initrd",
    cmdline="root=/dev/vda console=ttyS0",
)
DATA = replace(DIRECT, data="/pool/etcd1.data.qcow2")
LOADER = Files(disk="/pool/etcd1.qcow2", seed="/pool/etcd1.iso", console="/pool/etcd1.log", journal="/pool/etcd1.j")


def made(plan: Make) -> dict[str, str]:
    cluster, six = plan(), plan(network={"subnet": "fd00:20::/64"})
    efi = plan(vm={"firmware": "efi", "memory": 2048, "cpus": 2})
    isolated = plan(network={"mode": "isolated", "dns": ["192.168.20.1"]})
    bridged = plan(network={"mode": "bridge", "bridge": "br0", "vlan": 20})
    existing = plan(network={"mode": "network", "name": "lan"})
    return {
        "domain-direct-tcg": domain_xml(cluster, cluster.nodes[0], DIRECT, Accel.TCG, OWNER),
        "domain-direct-kvm": domain_xml(cluster, cluster.nodes[0], DIRECT, Accel.KVM, OWNER),
        "domain-data-tcg": domain_xml(cluster, cluster.nodes[0], DATA, Accel.TCG, OWNER),
        "domain-bios-tcg": domain_xml(cluster, cluster.nodes[0], LOADER, Accel.TCG, OWNER),
        "domain-efi-kvm": domain_xml(efi, efi.nodes[0], LOADER, Accel.KVM, OWNER),
        "domain-bridge-tcg": domain_xml(bridged, bridged.nodes[0], DIRECT, Accel.TCG, OWNER),
        "domain-network-tcg": domain_xml(existing, existing.nodes[0], DIRECT, Accel.TCG, OWNER),
        "network-nat": network_xml(cluster.network, OWNER),
        "network-nat-ipv6": network_xml(six.network, OWNER),
        "network-isolated-dns": network_xml(isolated.network, OWNER),
        "pool": pool_xml("etcd", "/images/bake-etcd"),
        "volume": volume_xml("seed.iso", 374784),
        "overlay": overlay_xml("etcd1.qcow2", 8 << 30, "/pool/base", "qcow2"),
        "data": data_xml("etcd1.data.qcow2", 8 << 30),
    }


DOMAINS = ["domain-direct-tcg", "domain-direct-kvm", "domain-data-tcg", "domain-bios-tcg", "domain-efi-kvm"]
DOMAINS += ["domain-bridge-tcg", "domain-network-tcg"]
NETWORKS = ["network-nat", "network-nat-ipv6", "network-isolated-dns"]
NAMES = [*DOMAINS, *NETWORKS, "pool", "volume", "overlay", "data"]


def parse(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314  made a moment ago


@pytest.mark.parametrize("name", NAMES)
def test_the_xml_equals_the_golden_file(name: str, plan: Make, request: pytest.FixtureRequest) -> None:
    text, path = made(plan)[name], GOLDEN / f"{name}.xml"
    if request.config.getoption("--golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_is_compared(plan: Make) -> None:
    assert sorted(made(plan)) == sorted(path.stem for path in GOLDEN.glob("*.xml")) == sorted(NAMES)


@pytest.fixture
def driver() -> Any:
    libvirt = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    return libvirt.open("test:///default")


@pytest.mark.parametrize("name", DOMAINS)
def test_libvirt_validates_the_domain_and_keeps_the_tag(name: str, plan: Make, driver: Any) -> None:
    import libvirt

    domain = driver.defineXMLFlags(made(plan)[name], libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    assert read_owner(domain.XMLDesc()) == OWNER


@pytest.mark.parametrize("name", NETWORKS)
def test_libvirt_validates_the_network_and_keeps_the_tag(name: str, plan: Make, driver: Any) -> None:
    import libvirt

    network = driver.networkDefineXMLFlags(made(plan)[name], libvirt.VIR_NETWORK_DEFINE_VALIDATE)
    assert read_owner(network.XMLDesc()) == OWNER


def test_libvirt_validates_pool_and_volumes(plan: Make, driver: Any) -> None:
    import libvirt

    pool = driver.storagePoolDefineXML(made(plan)["pool"], libvirt.VIR_STORAGE_POOL_DEFINE_VALIDATE)
    pool.create()
    for name in ("volume", "overlay", "data"):
        pool.createXML(made(plan)[name], libvirt.VIR_STORAGE_VOL_CREATE_VALIDATE)
    assert pool.UUIDString() == str(pool_uuid("etcd"))
    assert sorted(pool.listVolumes()) == ["etcd1.data.qcow2", "etcd1.qcow2", "seed.iso"]


def test_a_definition_without_bakes_tag_has_no_owner() -> None:
    assert read_owner("<domain><metadata><owner cluster='etcd'/></metadata></domain>") is None
    assert read_owner("<domain/>") is None


def test_only_the_owner_can_read_a_volume(plan: Make) -> None:
    for name in ("volume", "overlay", "data"):
        assert parse(made(plan)[name]).findtext("target/permissions/mode") == "0600"


def test_the_format_of_a_backing_file_is_explicit(plan: Make) -> None:
    backing = parse(made(plan)["overlay"]).find("backingStore/format")
    assert backing is not None
    assert backing.get("type") == "qcow2"


def test_a_replaced_seed_changes_only_the_drive_and_the_tag(plan: Make, driver: Any) -> None:
    before = driver.defineXMLFlags(made(plan)["domain-direct-tcg"]).XMLDesc()
    after = swap_seed(before, "/pool/new.iso", "dd")
    same = ElementTree.tostring(parse(after)).decode()
    assert same.replace("/pool/new.iso", "/pool/etcd1.iso").replace('seed="dd"', 'seed="bb"').split() == (
        ElementTree.tostring(parse(before)).decode().split()
    )
    owner = read_owner(after)
    assert owner is not None
    assert owner.seed == "dd"


def test_an_empty_drive_stays_and_can_get_another_iso(plan: Make, driver: Any) -> None:
    full = driver.defineXMLFlags(made(plan)["domain-direct-tcg"]).XMLDesc()
    empty = driver.defineXMLFlags(swap_seed(full, "", "bb")).XMLDesc()
    assert iso_in_drive(empty) == ""
    refilled = driver.defineXMLFlags(swap_seed(empty, "/pool/etcd1.iso", "bb")).XMLDesc()
    assert refilled == full


def test_a_seed_is_replaced_only_in_a_definition_of_bake() -> None:
    with pytest.raises(ValueError, match="not a node's definition"):
        swap_seed("<domain/>", "/pool/new.iso", "dd")


@pytest.mark.parametrize(
    ("name", "files", "firmware"),
    [("domain-direct-kvm", DIRECT, "bios"), ("domain-bios-tcg", LOADER, "bios"), ("domain-efi-kvm", LOADER, "efi")],
)
def test_a_vm_keeps_its_files_and_its_firmware(
    name: str, files: Files, firmware: str, plan: Make, driver: Any
) -> None:
    found = files_in(driver.defineXMLFlags(made(plan)[name]).XMLDesc())
    assert found == replace(files, seed=None, firmware=firmware)
    for wanted in ("bios", "efi"):
        cluster = plan(vm={"firmware": wanted})
        system = parse(domain_xml(cluster, cluster.nodes[0], found, Accel.TCG, OWNER)).find("os")
        assert system is not None
        assert (system.get("firmware") == "efi") == (firmware == "efi")


def test_the_files_are_read_only_from_a_definition_of_bake() -> None:
    with pytest.raises(ValueError, match="not a node's definition"):
        files_in("<domain><os/></domain>")


def test_a_new_iso_changes_only_the_source_of_a_drive(plan: Make) -> None:
    xml = domain_xml(plan(), plan().nodes[0], DIRECT, Accel.TCG, OWNER)
    assert iso_in_drive(xml) == "/pool/etcd1.iso"
    live = xml.replace('<source file="/pool/etcd1.iso" />', '<source file="/pool/etcd1.iso" index="1" />')
    drive = parse(drive_xml(live, "/pool/new.iso"))
    assert (drive.tag, drive.get("device")) == ("disk", "cdrom")
    assert [source.attrib for source in drive.findall("source")] == [{"file": "/pool/new.iso"}]
    assert [child.tag for child in drive if child.tag != "source"] == ["driver", "target", "readonly"]


def test_a_definition_without_a_drive_has_no_iso() -> None:
    assert iso_in_drive("<domain/>") == ""
    with pytest.raises(ValueError, match="not a node's definition"):
        drive_xml("<domain/>", "/pool/new.iso")
