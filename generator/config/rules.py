"""Check the rules that involve several fields of a spec. A `Finding` is a tuple of path, message and hint."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from generator.config.auth import check_auth
from generator.config.etcd_options import check_options, warn_options
from generator.config.fields import Finding, duplicates
from generator.config.hosts import EngineKind, check_hosts, check_incus, warn_of_domains
from generator.config.pki import PeerName
from generator.config.placement import (
    domain_of,
    gateway_of,
    node_addresses,
    node_macs,
    node_names,
    node_pins,
    sets_peer_check,
)
from generator.config.spec import MAX_MEMBERS, AnyAddress, ClusterSpec, FirewallKind, InstallMethod, NetworkSpec


def check_spec(spec: ClusterSpec) -> tuple[list[Finding], list[Finding]]:
    """Return the errors and the warnings of a spec."""
    refused = [
        *_count(spec),
        *_names(spec),
        *_addresses(spec),
        *_macs(spec),
        *_network(spec),
        *_firewall(spec),
        *_etcd(spec),
        *_pki(spec),
        *_install(spec),
        *_image(spec),
        *_hosts(spec),
        *check_auth(spec.auth, node_names(spec) if _has_valid_count(spec) else []),
    ]
    return refused, list(_warnings(spec))


def node_count(spec: ClusterSpec) -> int:
    return spec.nodes if isinstance(spec.nodes, int) else len(spec.nodes)


def _count(spec: ClusterSpec) -> Iterator[Finding]:
    count = node_count(spec)
    if not 1 <= count <= MAX_MEMBERS:
        yield ("nodes",), f"{count} is not between 1 and {MAX_MEMBERS}", "use 3 or 5 members"


def _warnings(spec: ClusterSpec) -> Iterator[Finding]:
    count = node_count(spec)
    if count % 2 == 0:
        message = f"{count} members tolerate only as many failures as {count - 1} members"
        yield ("nodes",), message, f"use {count - 1} or {count + 1} members"
    if spec.join == "voter" and count > 1:
        yield ("join",), "'voter' can make the cluster unable to accept writes while a node joins", "use join: learner"
    if spec.pki.peer_ca.separate is False and spec.pki.peer_name in (PeerName.NONE, PeerName.STATED):
        message = "the peer port accepts every certificate of the CA, so every client can act as an etcd member"
        remedy = "set pki.peerName to 'required'; if the cluster runs, first set 'stated' and run bake certs rotate"
        if spec.pki.peer_name is PeerName.STATED:
            remedy = "set pki.peerName to 'required' when bake certs shows that every node serves its new certificate"
        yield ("pki", "peerName"), f"{spec.pki.peer_name}: {message}", remedy
    clients, gateway = spec.firewall.client_cidrs, gateway_of(spec)
    admitted = any(isinstance(one, str) or gateway in one for one in clients)  # a string is the word `subnet`
    if spec.network.mode.is_own and clients and spec.firewall.kind is not FirewallKind.NONE and not admitted:
        message = f"lacks the gateway {gateway}: the nodes refuse connections from the machine that runs the VMs"
        remedy = f"add {gateway}, or run bake verify on a machine whose address is in clientCidrs"
        yield ("firewall", "clientCidrs"), message, remedy
    yield from warn_of_domains(spec.hosts, node_pins(spec) if _has_valid_count(spec) else [])
    for name, message, hint in warn_options(spec.etcd.options, spec.etcd.version):
        yield ("etcd", "options", name), message, hint


def _names(spec: ClusterSpec) -> Iterator[Finding]:
    names = node_names(spec) if _has_valid_count(spec) else []
    for index, first in duplicates(names):
        message = f"{names[index]!r} is already the name of nodes[{first}]"
        yield ("nodes", index, "name"), message, "give every node a different name"
    for index, name in enumerate(names):
        if len(f"{name}.{domain_of(spec)}") > 253:  # the longest DNS name (RFC 1035, section 2.3.4)
            message = f"{name}.{domain_of(spec)} is longer than 253 characters"
            yield ("nodes", index, "name"), message, "use a shorter name"
        if spec.engine is EngineKind.INCUS and len(f"{spec.name}-{name}") > 56:  # Incus: 63, with a number
            yield ("nodes", index, "name"), f"{spec.name}-{name} is longer than 56 characters", "use a shorter name"
    if len(spec.name) > 40:
        message = f"{spec.name!r} is longer than 40 characters; the names of VMs and networks contain it"
        yield ("name",), message, "use a shorter name"


def _has_valid_count(spec: ClusterSpec) -> bool:
    return 1 <= node_count(spec) <= MAX_MEMBERS


def _addresses(spec: ClusterSpec) -> Iterator[Finding]:
    if not _has_valid_count(spec) or list(_family(spec)):
        return
    addresses = node_addresses(spec)
    for index, first in duplicates(addresses):
        message = f"{addresses[index]} is already the address of nodes[{first}]"
        yield ("nodes", index, "address"), message, "give every node a different address"
    if spec.network.subnet.num_addresses < _SMALLEST:
        return
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


def _address_field(spec: ClusterSpec, index: int) -> tuple[str | int, ...]:
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
    message = f"{subnet} has room for {room} node{'' if room == 1 else 's'}, but the cluster has {count} nodes"
    return ("network", "subnet"), message, f"use a subnet of size /{prefix} or larger"


_SMALLEST = 4  # number of addresses in the smallest valid subnet
_RESERVED = 3  # addresses that no node gets: network address, gateway and, for IPv4, broadcast address


def _macs(spec: ClusterSpec) -> Iterator[Finding]:
    macs, hint = node_macs(spec) if _has_valid_count(spec) else [], "give every node a different MAC"
    for index, first in duplicates(macs):
        yield ("nodes", index, "mac"), f"{macs[index]} is already the MAC of nodes[{first}]", hint


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


_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # no host can have an address in 0.0.0.0/8 (RFC 1122, section 3.2.1.3)


def _family(spec: ClusterSpec) -> Iterator[Finding]:
    """Check that all addresses are IPv4 or all are IPv6, because all members must reach each other."""
    subnet = spec.network.subnet
    listed = (
        [] if isinstance(spec.nodes, int) else [(("nodes", i, "address"), n.address) for i, n in enumerate(spec.nodes)]
    )
    others = [(("network", "firstIp"), spec.network.first_ip), (("network", "gateway"), spec.network.gateway)]
    for path, address in [*listed, *others]:
        if address is not None and address.version != subnet.version:
            message = f"{address} is IPv{address.version}, but the subnet {subnet} is IPv{subnet.version}"
            yield path, message, "use one address family"


def _network(spec: ClusterSpec) -> Iterator[Finding]:
    yield from _family(spec)
    yield from _attachment(spec.network)
    subnet, gateway = spec.network.subnet, gateway_of(spec)
    if subnet.is_loopback or subnet.is_multicast or subnet.is_unspecified:
        yield ("network", "subnet"), f"{subnet} is not a network for hosts", "use a network such as 192.168.20.0/24"
    if subnet.num_addresses < _SMALLEST:
        yield ("network", "subnet"), f"{subnet} has no room for nodes and a gateway", "use a /24, for example"
    elif gateway.version == subnet.version and (gateway not in subnet or gateway == subnet.network_address):
        yield ("network", "gateway"), f"{gateway} is not a host address of {subnet}", "use an address inside the subnet"
    elif isinstance(subnet, IPv4Network) and gateway == subnet.broadcast_address:
        yield ("network", "gateway"), f"{gateway} is the broadcast address of {subnet}", "use another address"


def _hosts(spec: ClusterSpec) -> Iterator[Finding]:
    yield from check_incus(spec.incus, spec.hosts, spec.engine)
    if spec.engine is EngineKind.INCUS:
        if spec.network.mode.is_own:
            yield ("network", "mode"), f"{spec.network.mode}: needs libvirt", "set mode: bridge, or mode: network"
        if spec.vm.image:
            yield ("vm", "image"), "has no effect with engine incus, whose containers use bake's image", "leave it out"
        if spec.install.method is InstallMethod.ARCHIVE:
            yield ("install", "method"), "archive: not possible with engine incus", "use bake's image, which has etcd"
        return
    yield from check_hosts(spec.hosts, node_pins(spec) if _has_valid_count(spec) else [])
    if len(spec.hosts) > 1 and spec.network.mode.is_own:
        message = f"{spec.network.mode}: the VMs of one host cannot reach the VMs of other hosts"
        yield ("network", "mode"), message, "connect the VMs to a network that the hosts share: set mode: bridge"
    for index, host in enumerate(spec.hosts):
        if host.bridge and spec.network.mode != "bridge":
            message = f"has no effect with network.mode {spec.network.mode}"
            yield ("hosts", index, "bridge"), message, "set network.mode: bridge"


def _attachment(network: NetworkSpec) -> Iterator[Finding]:
    """Check the fields that name an existing bridge or network."""
    for field, mode, example in (("bridge", "bridge", "br0"), ("name", "network", "default")):
        value = getattr(network, field)
        if network.mode == mode and value is None:
            yield ("network", field), f"is missing, but network.mode is {mode}", f"name it, for example {example}"
        if network.mode != mode and value is not None:
            yield ("network", field), f"has no effect with network.mode {network.mode}", f"set mode: {mode}"
    if network.mode != "bridge" and network.vlan is not None:
        yield ("network", "vlan"), f"has no effect with network.mode {network.mode}", "set mode: bridge"


def _firewall(spec: ClusterSpec) -> Iterator[Finding]:
    subnet = spec.network.subnet
    for index, cidr in enumerate(spec.firewall.client_cidrs):
        if not isinstance(cidr, str) and cidr.version != subnet.version:
            message = f"{cidr} is IPv{cidr.version}, but the subnet {subnet} is not"
            yield ("firewall", "clientCidrs", index), message, "use one address family"


def _etcd(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.etcd.client_port == spec.etcd.peer_port:
        yield ("etcd", "peerPort"), f"{spec.etcd.peer_port} is also the client port", "use two different ports"
    for name, message, hint in check_options(spec.etcd.options, spec.etcd.version):
        yield ("etcd", "options", name), message, hint
    yield from _tls(spec)


def _tls(spec: ClusterSpec) -> Iterator[Finding]:
    etcd = spec.etcd
    if etcd.tls_min_version == "1.3" and etcd.options.get("tls-max-version") == "TLS1.2":
        yield ("etcd", "options", "tls-max-version"), "TLS1.2 is below etcd.tlsMinVersion 1.3", "leave it out"
    if not etcd.cipher_suites:
        return
    if etcd.tls_min_version == "1.3":
        message = "has no effect with etcd.tlsMinVersion 1.3, because etcd chooses the suites of TLS 1.3"
        yield ("etcd", "cipherSuites"), message, "leave it out"
        return
    kind = "RSA" if spec.pki.key_type.startswith("rsa") else "ECDSA"
    needed = f"TLS_ECDHE_{kind}_WITH_AES_128_GCM_SHA256"
    if needed not in etcd.cipher_suites:  # etcd would start, but no client could connect
        message = f"lacks {needed}, which HTTP/2 needs with keys of type {spec.pki.key_type}"
        yield ("etcd", "cipherSuites"), message, "add this suite"


def _pki(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.pki.leaf_days > spec.pki.ca_days:
        message = f"{spec.pki.leaf_days} is more than the CA's {spec.pki.ca_days} days"
        yield ("pki", "leafDays"), message, "use at most caDays: a certificate cannot be valid longer than its CA"
    for section, ca in (("ca", spec.pki.ca), ("peerCa", spec.pki.peer_ca)):
        if ca.key and not ca.certificate:
            hint = "set the fields certificate and key; for an external CA, set only certificate"
            yield ("pki", section, "certificate"), f"is missing, but its key {ca.key} is set", hint
    peers = spec.pki.peer_ca
    if peers.certificate and peers.separate is False:
        yield ("pki", "peerCa", "certificate"), "has no effect: pki.peerCa.separate is false", "set separate: true"
    if spec.pki.peer_name is PeerName.REQUIRED and sets_peer_check(spec):
        message = "'required' conflicts with the peer-cert-allowed-… option in etcd.options"
        yield ("pki", "peerName"), message, "remove pki.peerName, or remove peer-cert-allowed-… from etcd.options"


def _install(spec: ClusterSpec) -> Iterator[Finding]:
    install = spec.install
    if install.method is InstallMethod.PACKAGE and not install.packages:
        yield ("install", "packages"), "is empty, but install.method is 'package'", "list the packages with etcd"
    archive = install.method is InstallMethod.ARCHIVE
    for field, value in (("archive", install.archive), ("sha256", install.sha256)):
        if archive and value is None:
            hint = "give the tarball and its sha256: --archive FILE --archive-sha256 HEX"
            yield ("install", field), "is missing, but install.method is 'archive'", hint
        if not archive and value is not None:
            message = f"has no effect with install.method {str(install.method)!r}"
            yield ("install", field), message, "set method: archive"


def _image(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.vm.image and "://" in spec.vm.image and not spec.vm.sha256:
        yield ("vm", "sha256"), "is missing, but vm.image is a URL", "set the sha256 that the publisher states"
    if spec.vm.sha256 and not spec.vm.image:
        yield ("vm", "sha256"), "has no effect without vm.image", "set vm.image too"
