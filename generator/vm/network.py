"""Create, check and remove the cluster's libvirt network. `existing_network` checks a network of the user's own."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

from generator.config.spec import AnyAddress
from generator.errors import BakeError
from generator.plan import ClusterPlan, NetworkPlan
from generator.vm.connection import Connection, asking, libvirt, message_of, tolerating
from generator.vm.domain_xml import Owner, network_xml, read_owner
from generator.vm.existing_network import check_existing, subnets_in
from generator.vm.ownership import Claim

_OTHER_SUBNET = "choose another --subnet (and --first-ip), or free this subnet"
_ECHO_SECONDS = 0.6
# The socket family, protocol and echo request for each IP version. ICMP needs a checksum in the request (RFC 792).
# For ICMPv6, the kernel computes the checksum (RFC 3542).
_ECHO = {
    4: (socket.AF_INET, socket.IPPROTO_ICMP, b"\x08\x00\xf7\xfd\x00\x01\x00\x01"),
    6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, b"\x80\x00\x00\x00\x00\x01\x00\x01"),
}


def ensure_network(connection: Connection, plan: ClusterPlan, claim: Claim, owner: Owner) -> None:
    """Create and start the plan's network. Replace an unused network that differs from the plan.

    An existing network or bridge that the plan names does not change.
    """
    if not plan.network.mode.is_own:
        check_network(connection, plan, claim)
        return
    network, wanted = _find(connection, plan.network.name), network_xml(plan.network, owner)
    if network is not None:
        claim.demand(read_owner(network.XMLDesc()), f"the existing network {plan.network.name}")
        if not _fits(network.XMLDesc(), wanted):
            _refuse_change(connection, plan.network)
            _remove(network)
            network = None
    if network is None:
        refuse_overlap(connection, plan.network)
        with asking(f"define the network {plan.network.name}"):
            network = connection.networkDefineXML(wanted)
    if not network.isActive():
        _start(network, plan.network)


def check_network(connection: Connection, plan: ClusterPlan, claim: Claim) -> None:
    """Raise BakeError if `ensure_network` would refuse to create the network, or if the VMs could not use it."""
    if not plan.network.mode.is_own:
        check_existing(connection, plan)
        return
    network = _find(connection, plan.network.name)
    if network is None:
        refuse_overlap(connection, plan.network)
    else:
        claim.demand(read_owner(network.XMLDesc()), f"the existing network {plan.network.name}")


def _find(connection: Connection, name: str) -> libvirt.virNetwork | None:
    with tolerating("VIR_ERR_NO_NETWORK"):
        return connection.networkLookupByName(name)
    return None


def _fits(existing: str, wanted: str) -> bool:
    """Return whether guests can use the existing network. A DNS server that no guest uses does no harm."""
    return _shape(existing) == _shape(wanted) and (_serves_dns(existing) or not _serves_dns(wanted))


def _serves_dns(xml: str) -> bool:
    dns = ElementTree.fromstring(xml).find("dns")  # noqa: S314  libvirt wrote it
    return dns is None or dns.get("enable") != "no"


def _shape(xml: str) -> tuple[object, ...]:
    """Return the properties of a network that affect guests."""
    root = ElementTree.fromstring(xml)  # noqa: S314  libvirt wrote it
    forward, bridge, mac = root.find("forward"), root.find("bridge"), root.find("mac")
    return (
        forward.get("mode", "nat") if forward is not None else None,
        bridge.get("name") if bridge is not None else None,
        mac.get("address") if mac is not None else None,
        tuple(sorted(str(subnet) for subnet in subnets_in(root))),
        tuple(ip.get("address") for ip in root.iterfind("ip")),
    )


def refuse_overlap(connection: Connection, plan: NetworkPlan) -> None:
    """Raise BakeError if another network has the plan's bridge or overlaps with the plan's subnet."""
    for other in connection.listAllNetworks():
        root = ElementTree.fromstring(other.XMLDesc())  # noqa: S314  libvirt wrote it
        bridge = root.find("bridge")
        if bridge is not None and bridge.get("name") == plan.bridge:
            raise BakeError(f"the bridge {plan.bridge} belongs to the network {other.name()}")
        for subnet in subnets_in(root):
            if subnet.version == plan.subnet.version and subnet.overlaps(plan.subnet):
                raise BakeError(
                    f"the subnet {plan.subnet} overlaps with {subnet} of the network {other.name()}",
                    hint=_OTHER_SUBNET,
                )


def _refuse_change(connection: Connection, plan: NetworkPlan) -> None:
    users = _users(connection, plan.name)
    if users:
        raise BakeError(
            f"the network {plan.name} cannot change while {', '.join(users)} use it",
            hint="shut down these VMs, then run the same command again",
        )


def _users(connection: Connection, network: str) -> list[str]:
    """Return the names of the running VMs on a network."""
    active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    path = f"devices/interface/source[@network='{network}']"
    return [d.name() for d in active if ElementTree.fromstring(d.XMLDesc()).find(path) is not None]  # noqa: S314


def _start(network: libvirt.virNetwork, plan: NetworkPlan) -> None:
    try:
        network.create()
    except libvirt.libvirtError as error:
        with tolerating("VIR_ERR_NO_NETWORK"):
            network.undefine()
        reason = message_of(error)
        taken = "already in use" in reason
        hint = _OTHER_SUBNET if taken else "if the host's kernel has no NAT, set `network.mode: isolated`"
        message = f"could not start the network {plan.name} ({plan.subnet}): {reason}"
        raise BakeError(message, hint=hint) from error


def _remove(network: libvirt.virNetwork) -> None:
    if network.isActive():
        network.destroy()
    with tolerating("VIR_ERR_NO_NETWORK"):
        if network.isPersistent():
            network.undefine()


def list_networks(connection: Connection, claim: Claim) -> list[tuple[str, str]]:
    """Return the names and cluster ids of the cluster's networks."""
    tagged = ((network.name(), read_owner(network.XMLDesc())) for network in connection.listAllNetworks())
    return [(name, owner.cluster_id) for name, owner in tagged if owner and claim.covers(owner)]


def remove_networks(connection: Connection, claim: Claim) -> list[str]:
    """Remove the cluster's networks and return their names. Raise BakeError if a running VM uses a cluster network."""
    removed = []
    for network in connection.listAllNetworks():
        if claim.covers(read_owner(network.XMLDesc())):
            name = network.name()
            if users := _users(connection, name):
                raise BakeError(f"{', '.join(users)} run on the network {name}", hint="stop these VMs first")
            _remove(network)
            removed.append(name)
    return removed


def refuse_used_addresses(addresses: Iterable[AnyAddress]) -> None:
    """Send an ICMP echo request to each address. Raise BakeError if a host answers: the address is in use."""
    wanted = list(addresses)
    if not wanted:
        return
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        answers = list(pool.map(_answers, wanted))
    alive = [str(address) for address, answered in zip(wanted, answers, strict=True) if answered]
    if alive:
        raise BakeError(f"another host already uses {', '.join(alive)}", hint=_OTHER_SUBNET)


def _answers(address: AnyAddress) -> bool:
    """Return whether an address answers an ICMP echo request. Return False if the kernel forbids the request."""
    family, protocol, request = _ECHO[address.version]
    try:
        with _icmp_socket(family, protocol) as echo:
            echo.settimeout(_ECHO_SECONDS)
            echo.connect((str(address), 0))
            echo.send(request)
            while echo.recvfrom(256)[1][0] != str(address):
                pass  # before connect(), a raw socket may have received other hosts' packets
            return True
    except OSError:
        return False


def _icmp_socket(family: int, protocol: int) -> socket.socket:
    """Open an unprivileged ICMP socket if the kernel's setting ping_group_range allows it, else a raw socket."""
    try:
        return socket.socket(family, socket.SOCK_DGRAM, protocol)
    except OSError:
        return socket.socket(family, socket.SOCK_RAW, protocol)
