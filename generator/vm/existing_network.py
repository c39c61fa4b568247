"""Check a network or a bridge that exists already. bake only uses it, and changes nothing of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from secrets import token_hex
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from generator.config.spec import AnyAddress, AnyNetwork, NetworkMode
from generator.errors import BakeError
from generator.image.build import MACHINE
from generator.plan import ClusterPlan, NetworkPlan
from generator.progress import Report
from generator.vm.connection import Connection, asking, is_local, libvirt, message_of, tolerating
from generator.vm.domain_xml import add_interface, child, read_owner, to_text

VLANS = 11_000_000  # libvirt 11.0.0, the first version that sets the VLAN of a port of a Linux bridge


def check_existing(connection: Connection, plan: ClusterPlan) -> None:
    """Raise BakeError if the VMs cannot use the network or the bridge that the plan names."""
    with asking("check the VMs' network"):
        if plan.network.mode is NetworkMode.BRIDGE:
            _check_bridge(connection, plan.network)
        else:
            _check_network(connection, plan.network)


def _check_bridge(connection: Connection, plan: NetworkPlan) -> None:
    version = connection.getLibVersion()
    if plan.vlan is not None and version < VLANS:
        text = f"libvirt {_dotted(version)} cannot set network.vlan {plan.vlan}; libvirt 11.0.0 is the first that can"
        hint = f"give the VLAN a bridge of its own, such as {plan.bridge}.{plan.vlan}, and set network.bridge to it"
        raise BakeError(text, hint=hint)
    if is_local(connection):
        if plan.bridge not in (found := _bridges()):
            kind = "is not a bridge" if plan.bridge in _interfaces() else "does not exist"
            others = sorted(found.difference(_bridges_of_clusters(connection)))
            more = f", or set network.bridge to one of: {', '.join(others)}" if others else ""
            text = f"the VMs' host has no bridge {plan.bridge}: the interface {kind}"
            raise BakeError(text, hint=f"create the bridge{more}")
        if plan.vlan is not None and not _filters_vlans(plan.bridge):
            text = f"the bridge {plan.bridge} does not filter VLANs, so network.vlan {plan.vlan} would have no effect"
            hint = f"ip link set {plan.bridge} type bridge vlan_filtering 1; or leave network.vlan out"
            raise BakeError(text, hint=hint)
    else:
        _try_bridge(connection, plan.bridge, plan.vlan)


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _bridges() -> set[str]:
    """Return the names of this host's bridges, and of interfaces that /sys does not show.

    /sys shows the interfaces of the network namespace in which it was mounted, which may be another one.
    """
    folders = ((name, Path("/sys/class/net", name)) for name in _interfaces())
    return {name for name, folder in folders if (folder / "bridge").is_dir() or not folder.exists()}


def _bridges_of_clusters(connection: Connection) -> Iterator[str]:
    """Yield the bridges of the networks that bake has made."""
    for xml in (network.XMLDesc() for network in connection.listAllNetworks()):
        bridge = ElementTree.fromstring(xml).find("bridge")  # noqa: S314  libvirt wrote it
        if bridge is not None and read_owner(xml):
            yield bridge.get("name", "")


def _filters_vlans(bridge: str) -> bool:
    """Return whether a bridge of this host filters VLANs. The file is missing if the kernel's bridges cannot."""
    try:
        return Path(f"/sys/class/net/{bridge}/bridge/vlan_filtering").read_text().strip() == "1"
    except OSError:
        return False


@cache
def _try_bridge(connection: Connection, bridge: str, vlan: int | None) -> None:
    """Connect a small VM to a bridge of another host, because libvirt cannot say whether a bridge exists.

    The VM never runs: libvirt starts it paused, and removes it again, also if the connection ends.
    """
    root = Element("domain", type="qemu")
    child(root, "name", f"bake-probe-{token_hex(8)}")
    child(root, "memory", 16, unit="MiB")
    child(child(root, "os"), "type", "hvm", arch=MACHINE, machine="q35")
    add_interface(child(root, "devices"), bridge=bridge, vlan=vlan)
    try:
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        connection.createXML(to_text(root), flags).destroy()
    except libvirt.libvirtError as error:
        text = f"the VMs' host cannot connect a VM to the bridge {bridge}: {message_of(error)}"
        raise BakeError(text, hint="create the bridge on the host, or set another network.bridge") from error


def _check_network(connection: Connection, plan: NetworkPlan) -> None:
    with tolerating("VIR_ERR_NO_NETWORK"):
        network = connection.networkLookupByName(plan.name)
        if not network.isActive():
            raise BakeError(f"the network {plan.name} is not active", hint=f"start it: virsh net-start {plan.name}")
        _check_addresses(network.XMLDesc(), plan)
        return
    networks = connection.listAllNetworks()
    others = ", ".join(sorted(one.name() for one in networks if not read_owner(one.XMLDesc()))) or "none"
    hint = f"set network.name to an existing network: {others}"
    raise BakeError(f"libvirt has no network {plan.name}", hint=hint)


def _check_addresses(xml: str, plan: NetworkPlan) -> None:
    """Compare the plan with the addresses of a network. A network on a bridge of the host has none."""
    root = ElementTree.fromstring(xml)  # noqa: S314  libvirt wrote it
    found = list(subnets_in(root))
    gateways = [ip_address(ip.get("address", "")) for ip in root.iterfind("ip") if ip.get("address")]
    if found and plan.subnet not in found:
        has = " and ".join(map(str, found))
        text = f"the network {plan.name} has the subnet {has}, but network.subnet is {plan.subnet}"
        raise BakeError(text, hint=f"set network.subnet to {found[0]} (--subnet), or use another network")
    if gateways and plan.gateway not in gateways:
        text = f"the network {plan.name} has the gateway {gateways[0]}, but network.gateway is {plan.gateway}"
        raise BakeError(text, hint=f"set network.gateway to {gateways[0]}")


def warn_of_dhcp(connection: Connection, plan: ClusterPlan, report: Report) -> None:
    """Report each node whose address the network's DHCP server can give to another machine."""
    if plan.network.mode is not NetworkMode.NETWORK:
        return
    with asking("read the network's DHCP ranges"):
        root = ElementTree.fromstring(connection.networkLookupByName(plan.network.name).XMLDesc())  # noqa: S314
    for first, last in _ranges(root):
        inside = [node.name for node in plan.nodes if _is_between(first, node.address, last)]
        if inside:
            where = f"in the DHCP range {first} to {last} of the network {plan.network.name}"
            risk = "so another machine can get them; choose network.firstIp outside of the range"
            report(f"warning: the addresses of {', '.join(inside)} are {where}, {risk}")


def _is_between(first: AnyAddress, address: AnyAddress, last: AnyAddress) -> bool:
    return first.version == address.version and int(first) <= int(address) <= int(last)


def _ranges(root: ElementTree.Element) -> Iterator[tuple[AnyAddress, AnyAddress]]:
    for one in root.iterfind("ip/dhcp/range"):
        yield ip_address(one.get("start", "")), ip_address(one.get("end", ""))


def _dotted(version: int) -> str:
    """Return libvirt's number of a version as text (virConnectGetLibVersion)."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def subnets_in(root: ElementTree.Element) -> Iterator[AnyNetwork]:
    for ip in root.iterfind("ip"):
        if ip.get("address"):
            length = ip.get("prefix") or ip.get("netmask") or ("64" if ip.get("family") == "ipv6" else "24")
            yield ip_network(f"{ip.get('address')}/{length}", strict=False)
