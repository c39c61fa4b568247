"""Check the rules between the network and the nodes' addresses. A `Finding` is a tuple of path, message and hint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

from generator.config.fields import FieldPath, Finding, duplicates
from generator.config.placement import gateway_of, node_addresses, node_macs, node_names
from generator.config.spec import AnyAddress, ClusterSpec

_SMALLEST = 4  # number of addresses in the smallest valid subnet
_RESERVED = 3  # addresses that no node gets: network address, gateway and, for IPv4, broadcast address
# For each mode with an existing bridge or network: the field that names it, and an example of its value.
ATTACHMENTS: Mapping[str, tuple[str, str]] = {"bridge": ("bridge", "br0"), "network": ("name", "default")}
_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # no host can have an address in 0.0.0.0/8 (RFC 1122, section 3.2.1.3)


def check_subnet(spec: ClusterSpec) -> Iterator[Finding]:
    """Check the subnet, and the address family of the addresses. If the subnet is wrong, check nothing else."""
    if fault := _subnet_fault(spec):
        yield fault
        return
    yield from _family(spec)
    yield from _client_networks(spec)


def check_addresses(spec: ClusterSpec) -> Iterator[Finding]:
    """Check that the gateway and the nodes have host addresses of the subnet. See `check_subnet` for a wrong subnet."""
    if _subnet_fault(spec):
        return
    yield from _gateway(spec)
    if not any(_family(spec)):
        yield from _addresses(spec)


def _subnet_fault(spec: ClusterSpec) -> Finding | None:
    subnet, where = spec.network.subnet, ("network", "subnet")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_unspecified:
        example = "192.168.20.0/24" if subnet.version == 4 else "fd00:20::/64"
        return where, f"{subnet} is not a network for hosts", f"use a network such as {example}"
    if subnet.num_addresses < _SMALLEST:
        example = "/24" if subnet.version == 4 else "/64"
        return where, f"{subnet} has no room for nodes and a gateway", f"use a {example}, for example"
    stated = [address for _, address in _stated(spec)]
    if len(stated) > 1 and not any(address in subnet for address in stated):
        message = f"{subnet} contains none of the addresses {', '.join(map(str, dict.fromkeys(stated)))}"
        return where, message, "use the network of these addresses, or addresses inside the subnet"
    return None


def _stated(spec: ClusterSpec) -> list[tuple[FieldPath, AnyAddress]]:
    """Return the addresses in the spec that must be inside the subnet, with their paths."""
    nodes = () if isinstance(spec.nodes, int) else spec.nodes
    found: list[tuple[FieldPath, AnyAddress | None]] = [
        (("nodes", index, "address"), node.address) for index, node in enumerate(nodes)
    ]
    found += [(("network", "firstIp"), spec.network.first_ip), (("network", "gateway"), spec.network.gateway)]
    return [(path, address) for path, address in found if address is not None]


def _family(spec: ClusterSpec) -> Iterator[Finding]:
    """Check that all addresses are IPv4 or all are IPv6, because all members must reach each other."""
    subnet = spec.network.subnet
    for path, address in _stated(spec):
        if address.version != subnet.version:
            message = f"{address} is IPv{address.version}, but the subnet {subnet} is IPv{subnet.version}"
            yield path, message, "use one address family"


def _gateway(spec: ClusterSpec) -> Iterator[Finding]:
    subnet, gateway = spec.network.subnet, gateway_of(spec)
    if gateway.version == subnet.version and (gateway not in subnet or gateway == subnet.network_address):
        yield ("network", "gateway"), f"{gateway} is not a host address of {subnet}", "use an address inside the subnet"
    elif isinstance(subnet, IPv4Network) and gateway == subnet.broadcast_address:
        yield ("network", "gateway"), f"{gateway} is the broadcast address of {subnet}", "use another address"


def _addresses(spec: ClusterSpec) -> Iterator[Finding]:
    addresses = node_addresses(spec)
    if spec.network.first_ip and spec.network.first_ip == gateway_of(spec):
        message = f"{spec.network.first_ip} is the gateway's address"
        yield ("network", "firstIp"), message, "use a later address, or set network.gateway"
    if lack := _check_room(spec, len(addresses)):
        yield lack
        return
    refused = set()
    for index, address in enumerate(addresses):
        where = _address_field(spec, index)
        if where not in refused and (rule := _address_fault(spec, address)):
            refused.add(where)
            hint = f"use a host address inside {spec.network.subnet}"
            if where == ("network", "subnet"):
                hint = "use another subnet, or set network.firstIp to the first node's address"
            yield where, f"{address} (node {node_names(spec)[index]}) {rule}", hint


def _address_field(spec: ClusterSpec, index: int) -> FieldPath:
    """Return the path of the field that sets a node's address."""
    if not isinstance(spec.nodes, int) and spec.nodes[index].address:
        return ("nodes", index, "address")
    return ("network", "firstIp") if spec.network.first_ip else ("network", "subnet")


def _check_room(spec: ClusterSpec, count: int) -> Finding | None:
    subnet = spec.network.subnet
    room = subnet.num_addresses - _RESERVED
    if room >= count:
        return None
    prefix = subnet.max_prefixlen - (count + _RESERVED - 1).bit_length()
    message = f"{subnet} has room for {room} node{'' if room == 1 else 's'}, not for {count}"
    return ("network", "subnet"), message, f"use a subnet of size /{prefix} or larger"


def _address_fault(spec: ClusterSpec, address: AnyAddress) -> str | None:
    """Return the reason why a node cannot have `address`, or None if a node can have `address`."""
    subnet = spec.network.subnet
    if address.is_loopback:
        return "is a loopback address"
    if address.is_link_local:
        return "is a link-local address"
    if address.is_multicast or address.is_reserved or address in _THIS_NETWORK:
        return "is not a host address"
    if address not in subnet:
        return f"is outside the subnet {subnet}"
    if address == subnet.network_address and subnet.num_addresses > 2:
        return "is the subnet's network address"
    if isinstance(subnet, IPv4Network) and address == subnet.broadcast_address and subnet.num_addresses > 2:
        return "is the subnet's broadcast address"
    return "is the gateway's address" if address == gateway_of(spec) else None


def check_duplicates(spec: ClusterSpec) -> Iterator[Finding]:
    """Check that the spec gives no address to two nodes."""
    stated = {path[1]: address for path, address in _stated(spec) if path[0] == "nodes"}
    for place, first in duplicates(stated.values()):
        index, other = list(stated)[place], list(stated)[first]
        message = f"{stated[index]} is already the address of nodes[{other}]"
        yield ("nodes", index, "address"), message, "give every node a different address"


def check_macs(spec: ClusterSpec) -> Iterator[Finding]:
    macs, hint = node_macs(spec), "give every node a different MAC"
    for index, first in duplicates(macs):
        yield ("nodes", index, "mac"), f"{macs[index]} is already the MAC of nodes[{first}]", hint


def check_attachment(spec: ClusterSpec) -> Iterator[Finding]:
    """Check the fields that name an existing bridge or network."""
    network = spec.network
    for mode, (field, example) in ATTACHMENTS.items():
        value = getattr(network, field)
        if network.mode == mode and value is None:
            hint = f"set network.{field} in the cluster file (--config FILE), for example {example}"
            yield ("network", field), f"is missing, but network.mode is {mode}", hint
        if network.mode != mode and value is not None:
            yield ("network", field), f"has no effect with network.mode {network.mode}", f"set mode: {mode}"
    if network.mode != "bridge" and network.vlan is not None:
        yield ("network", "vlan"), f"has no effect with network.mode {network.mode}", "set mode: bridge"


def _client_networks(spec: ClusterSpec) -> Iterator[Finding]:
    """Check that the networks in firewall.clientCidrs have the subnet's address family."""
    subnet = spec.network.subnet
    for index, cidr in enumerate(spec.firewall.client_cidrs):
        if not isinstance(cidr, str) and cidr.version != subnet.version:
            message = f"{cidr} is IPv{cidr.version}, but the subnet {subnet} is not"
            yield ("firewall", "clientCidrs", index), message, "use one address family"
