"""Build libvirt's XML for a plan's network and domains, without calling libvirt.

Networks and domains have the cluster's tag (`Owner`) in their metadata. A pool has no metadata, so its UUID identifies
the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import IPv6Address
from uuid import UUID, uuid5
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from generator.config.spec import NetworkMode
from generator.image.build import MACHINE
from generator.plan import DATA_DISK, JOURNAL_PORT, ClusterPlan, NetworkPlan, NodePlan

TAG_NAMESPACE = "urn:bake:owner:1"
ElementTree.register_namespace("bake", TAG_NAMESPACE)
_DISKS, _DRIVE = "devices/disk[@device='disk']", "devices/disk[@device='cdrom']"
_POOLS = UUID("5f1cbb43-6a0e-5cb5-8ab2-8d4a3c0f8e11")

# Size of QEMU's cache for the translated code of an emulated guest (QEMU's default: 1 GiB).
TB_CACHE_MIB = 512


class Accel(StrEnum):
    """The acceleration: KVM, or emulation (TCG). The values are libvirt's domain types."""

    KVM = "kvm"
    TCG = "qemu"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The tag that bake writes into libvirt objects. `cluster_id` distinguishes clusters with the same name."""

    cluster: str
    cluster_id: str
    version: str
    node: str = ""
    image: str = ""  # digest of the image from which the disk was made
    built: str = ""  # when bake built the image (RFC 3339), or "" for the user's image
    root: str = ""  # the values of fields from which the root disk was made, as in `plan.root_disk`
    seed: str = ""  # digest of the ISO
    config: str = ""  # digest of the other parts of the definition


@dataclass(frozen=True, kw_only=True)
class Files:
    """The paths of a VM's files on the VM's host, and the firmware that the disk needs, by default the plan's.

    `seed` is None if the CD drive is empty. `data` is None if etcd's data is on the VM's first disk.
    """

    disk: str
    seed: str | None
    console: str
    journal: str
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    data: str | None = None


def pool_name(cluster: str) -> str:
    return f"bake-{cluster}"


def pool_uuid(cluster: str) -> UUID:
    return uuid5(_POOLS, cluster)


def to_text(root: Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def child(parent: Element, tag: str, text: object = None, /, **attributes: object) -> Element:
    child = SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    child.text = None if text is None else str(text)
    return child


def _add_owner(parent: Element, owner: Owner) -> None:
    tag = f"{{{TAG_NAMESPACE}}}owner"
    SubElement(child(parent, "metadata"), tag, {key: value for key, value in asdict(owner).items() if value})


def read_owner(xml: str) -> Owner | None:
    """Return bake's tag in a libvirt definition, or None if the definition has no tag."""
    tag = ElementTree.fromstring(xml).find(f"metadata/{{{TAG_NAMESPACE}}}owner")  # noqa: S314  libvirt wrote it
    if tag is None or not tag.get("cluster"):
        return None
    return Owner(**{field: tag.get(field, "") for field in Owner.__dataclass_fields__})


def network_xml(plan: NetworkPlan, owner: Owner) -> str:
    """Return the XML of a network. Guests have static addresses, so the network has no DHCP."""
    root = Element("network")
    child(root, "name", plan.name)
    child(root, "uuid", plan.uuid)
    _add_owner(root, owner)
    if plan.mode == "nat":
        forward = child(root, "forward", mode="nat")
        if plan.subnet.version == 6:
            child(forward, "nat", ipv6="yes")
    child(root, "bridge", name=plan.bridge, stp="off", delay="0")
    child(root, "mac", address=plan.mac)
    # libvirt starts dnsmasq only for DHCP or DNS. DNS is needed only if the gateway is the guests' DNS server.
    child(root, "dns", enable="yes" if plan.gateway in plan.dns else "no")
    family = "ipv6" if isinstance(plan.gateway, IPv6Address) else "ipv4"
    child(root, "ip", family=family, address=plan.gateway, prefix=plan.subnet.prefixlen)
    return to_text(root)


def domain_xml(plan: ClusterPlan, node: NodePlan, files: Files, accel: Accel, owner: Owner) -> str:
    """Return the XML of a node's VM.

    The VM has virtio devices, a SATA CD drive with the seed, a serial console with a log, and a port to which the guest
    copies its journal.
    """
    root = Element("domain", type=str(accel))
    child(root, "name", node.domain)
    child(root, "uuid", node.uuid)
    child(root, "title", f"bake: node {node.name} of cluster {plan.name}")
    _add_owner(root, owner)
    child(root, "memory", plan.spec.vm.memory, unit="MiB")
    child(root, "vcpu", plan.spec.vm.cpus)
    _add_os(root, plan, files)
    _add_processor(root, accel)
    _add_clock(root)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        child(root, f"on_{event}", action)
    devices = child(root, "devices")
    _add_disks(devices, files)
    _add_interface(devices, plan.network, node)
    _add_console(devices, files)
    _add_journal(devices, files)
    _add_small_devices(devices)
    return to_text(root)


def _add_os(root: Element, plan: ClusterPlan, files: Files) -> None:
    """Boot the image's kernel directly if it is a separate file, else use the image's boot loader."""
    by_loader = files.kernel is None
    by_efi = by_loader and (files.firmware or plan.spec.vm.firmware) == "efi"
    system = child(root, "os", **({"firmware": "efi"} if by_efi else {}))
    child(system, "type", "hvm", arch=MACHINE, machine="q35")
    if by_efi:  # Secure Boot, libvirt's default, refuses boot loaders without Microsoft's signature
        child(child(system, "firmware"), "feature", enabled="no", name="secure-boot")
    for tag in ("kernel", "initrd", "cmdline"):
        if not by_loader and getattr(files, tag):
            child(system, tag, getattr(files, tag))
    if by_loader:
        child(system, "boot", dev="hd")


def _add_processor(root: Element, accel: Accel) -> None:
    features = child(root, "features")
    child(features, "acpi")
    child(features, "apic")
    if accel is Accel.TCG:
        child(child(features, "tcg"), "tb-cache", TB_CACHE_MIB, unit="MiB")
    child(root, "cpu", mode="maximum" if accel is Accel.TCG else "host-passthrough")


def _add_clock(root: Element) -> None:
    clock = child(root, "clock", offset="utc")
    child(clock, "timer", name="rtc", tickpolicy="catchup")
    child(clock, "timer", name="pit", tickpolicy="delay")
    child(clock, "timer", name="hpet", present="no")


def _add_disks(devices: Element, files: Files) -> None:
    # The XML names disks by path, because libvirt's AppArmor helper cannot find the path of a pool's volume.
    for file, name, serial in ((files.disk, "vda", None), (files.data, "vdb", DATA_DISK)):
        if file:
            disk = child(devices, "disk", type="file", device="disk")
            child(disk, "driver", name="qemu", type="qcow2", discard="unmap")
            child(disk, "source", file=file)
            child(disk, "target", dev=name, bus="virtio")
            if serial:
                child(disk, "serial", serial)
    seed = child(devices, "disk", type="file", device="cdrom")
    child(seed, "driver", name="qemu", type="raw")
    if files.seed:
        child(seed, "source", file=files.seed)
    child(seed, "target", dev="sda", bus="sata")  # the machine type q35 has no IDE controller
    child(seed, "readonly")


def _add_interface(devices: Element, network: NetworkPlan, node: NodePlan) -> None:
    if network.mode is NetworkMode.BRIDGE:
        add_interface(devices, bridge=network.bridge, vlan=network.vlan, mac=node.mac)
    else:
        add_interface(devices, network=network.name, mac=node.mac)


def add_interface(
    devices: Element, *, bridge: str = "", network: str = "", vlan: int | None = None, mac: str = ""
) -> None:
    """Connect a VM to a bridge of the host, or to a libvirt network."""
    interface = child(devices, "interface", type="bridge" if bridge else "network")
    if mac:
        child(interface, "mac", address=mac)
    child(interface, "source", **({"bridge": bridge} if bridge else {"network": network}))
    if vlan is not None:
        child(child(interface, "vlan"), "tag", id=vlan)
    child(interface, "model", type="virtio")
    child(interface, "rom", enabled="no")


def _add_console(devices: Element, files: Files) -> None:
    serial = child(devices, "serial", type="pty")
    child(serial, "log", file=files.console, append="off")
    child(serial, "target", type="isa-serial", port="0")
    child(child(devices, "console", type="pty"), "target", type="serial", port="0")


def _add_journal(devices: Element, files: Files) -> None:
    """Add a virtio port that appends to a file. In the guest, journal-copy.service writes to the port."""
    channel = child(devices, "channel", type="file")
    child(channel, "source", path=files.journal, append="on")
    child(channel, "target", type="virtio", name=JOURNAL_PORT)


def _add_small_devices(devices: Element) -> None:
    rng = child(devices, "rng", model="virtio")
    child(rng, "backend", "/dev/urandom", model="random")
    child(devices, "controller", type="usb", model="none")
    child(devices, "watchdog", model="itco", action="none")  # the machine type q35 always has an iTCO watchdog
    child(devices, "audio", id="1", type="none")
    child(child(devices, "video"), "model", type="none")
    child(devices, "memballoon", model="none")


def files_in(xml: str) -> Files:
    """Return the files in a definition that `domain_xml` has built, without the ISO."""
    root = ElementTree.fromstring(xml)  # noqa: S314  libvirt wrote it
    system, log = (root.find(path) for path in ("os", "devices/serial/log"))
    disks = {target.get("dev"): source.get("file", "") for target, source in _disks(root)}
    if system is None or "vda" not in disks or log is None:
        raise ValueError("not a node's definition")
    # Without a port for the journal, an older bake made the VM.
    journal = next((source.get("path", "") for source in root.iterfind("devices/channel/source")), "")
    kernel, initrd, cmdline = (system.findtext(tag) for tag in ("kernel", "initrd", "cmdline"))
    return Files(
        disk=disks["vda"], seed=None, console=log.get("file", ""), journal=journal, kernel=kernel, initrd=initrd,
        cmdline=cmdline, firmware="efi" if system.get("firmware") == "efi" else "bios", data=disks.get("vdb"),
    )  # fmt: skip


def _disks(root: Element) -> Iterator[tuple[Element, Element]]:
    """Yield the target and the source of each disk."""
    for disk in root.iterfind(_DISKS):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            yield target, source


def iso_in_drive(xml: str) -> str:
    """Return the path of the ISO in a VM's drive, or an empty string if the drive is empty."""
    source = ElementTree.fromstring(xml).find(f"{_DRIVE}/source")  # noqa: S314  libvirt wrote it
    return "" if source is None else source.get("file", "")


def drive_xml(xml: str, seed_path: str) -> str:
    """Return the XML that puts another ISO into a running VM's CD drive. An empty path means an empty drive."""
    drive = _fill_drive(ElementTree.fromstring(xml), seed_path)  # noqa: S314  libvirt wrote it
    return to_text(drive)


def swap_seed(xml: str, seed_path: str, seed: str) -> str:
    """Return a VM's definition with another ISO in the CD drive. An empty path means an empty drive.

    Only the drive and the tag change.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314  libvirt wrote it
    _fill_drive(root, seed_path)
    tag = root.find(f"metadata/{{{TAG_NAMESPACE}}}owner")
    if tag is None:
        raise ValueError("not a node's definition")
    tag.set("seed", seed)
    return to_text(root)


def _fill_drive(root: Element, seed_path: str) -> Element:
    drive = root.find(_DRIVE)
    if drive is None:
        raise ValueError("not a node's definition")
    driver, *others = (child for child in drive if child.tag != "source")  # `source` names the old ISO
    drive[:] = [driver, *([Element("source", file=seed_path)] if seed_path else []), *others]
    return drive
