"""Check the rules that involve several fields of a spec. A `Finding` is a tuple of path, message and hint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from generator.config import network_rules as network
from generator.config.auth import check_auth
from generator.config.etcd_options import check_options, warn_options
from generator.config.fields import FieldPath, Finding, duplicates
from generator.config.hosts import EngineKind, check_hosts, check_incus, warn_of_domains
from generator.config.pki import PeerName
from generator.config.placement import domain_of, gateway_of, node_names, node_pins, sets_peer_check
from generator.config.spec import MAX_MEMBERS, ClusterSpec, FirewallKind, InstallMethod


def check_spec(spec: ClusterSpec, unread: Collection[FieldPath] = ()) -> tuple[list[Finding], list[Finding]]:
    """Return the errors and the warnings of a spec.

    `unread`: fields and sections that have their defaults, because their values are invalid. A rule about such a field,
    or a rule that needs it, would find errors that the user has not made.
    """
    few = _with_valid_count(spec)

    def is_known(path: FieldPath) -> bool:
        return not any(path[: len(each)] == each for each in unread)

    rules = [rule for rule in _RULES if all(map(is_known, _NEEDED.get(rule, ())))]
    refused = [finding for rule in rules for finding in rule(few) if is_known(finding[0])]
    return [*_count(spec), *refused], list(_warnings(few))


def node_count(spec: ClusterSpec) -> int:
    return spec.nodes if isinstance(spec.nodes, int) else len(spec.nodes)


def _count(spec: ClusterSpec) -> Iterator[Finding]:
    count = node_count(spec)
    if not 1 <= count <= MAX_MEMBERS:
        yield ("nodes",), f"{count} is not between 1 and {MAX_MEMBERS}", "use 3 or 5 members"


def _warnings(spec: ClusterSpec) -> Iterator[Finding]:
    count = node_count(spec)
    if count % 2 == 0:
        fewer = f"{count - 1} member{'s' * (count > 2)}"
        message = f"{count} members tolerate only as many failures as {fewer}"
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
    yield from warn_of_domains(spec.hosts, node_pins(spec))
    for name, message, hint in warn_options(spec.etcd.options, spec.etcd.version):
        yield ("etcd", "options", name), message, hint


def _names(spec: ClusterSpec) -> Iterator[Finding]:
    names = node_names(spec)
    for index, first in duplicates(names):
        message = f"{names[index]!r} is already the name of nodes[{first}]"
        yield ("nodes", index, "name"), message, "give every node a different name"
    for index, name in enumerate(names):
        if len(f"{name}.{domain_of(spec)}") > 253:  # the longest DNS name (RFC 1035, section 2.3.4)
            message = f"{name}.{domain_of(spec)} is longer than 253 characters"
            yield ("nodes", index, "name"), message, "use a shorter name"
        if spec.engine is EngineKind.INCUS and len(f"{spec.name}-{name}") > 56:  # Incus: 63, with a number
            yield ("nodes", index, "name"), f"{spec.name}-{name} is longer than 56 characters", "use a shorter name"


def _with_valid_count(spec: ClusterSpec) -> ClusterSpec:
    """Return the spec with one to seven nodes, so that the other rules can check these nodes.

    A wrong number becomes 1, so that no rule finds an error of nodes that the user may not want.
    """
    if isinstance(spec.nodes, int):
        return spec if 1 <= spec.nodes <= MAX_MEMBERS else replace(spec, nodes=1)
    return replace(spec, nodes=spec.nodes[:MAX_MEMBERS] or 1)


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
    yield from check_hosts(spec.hosts, node_pins(spec))


def _host_networks(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.engine is EngineKind.INCUS:
        return
    if len(spec.hosts) > 1 and spec.network.mode.is_own:
        message = f"{spec.network.mode}: the VMs of one host cannot reach the VMs of other hosts"
        yield ("network", "mode"), message, "connect the VMs to a network that the hosts share: set mode: bridge"
    for index, host in enumerate(spec.hosts):
        if host.bridge and spec.network.mode != "bridge":
            message = f"has no effect with network.mode {spec.network.mode}"
            yield ("hosts", index, "bridge"), message, "set network.mode: bridge"


def _ports(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.etcd.client_port == spec.etcd.peer_port:
        yield ("etcd", "peerPort"), f"{spec.etcd.peer_port} is also the client port", "use two different ports"


def _options(spec: ClusterSpec) -> Iterator[Finding]:
    for name, message, hint in check_options(spec.etcd.options, spec.etcd.version):
        yield ("etcd", "options", name), message, hint


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


def _auth(spec: ClusterSpec) -> Iterator[Finding]:
    return check_auth(spec.auth, node_names(spec))


Rule = Callable[[ClusterSpec], Iterator[Finding]]
_RULES: tuple[Rule, ...] = (
    _names, network.check_subnet, network.check_addresses, network.check_duplicates, network.check_macs,
    network.check_attachment, _ports, _options, _tls, _pki, _install, _image, _hosts, _host_networks, _auth,
)  # fmt: skip
_SUBNET, _MODE, _ENGINE = ("network", "subnet"), ("network", "mode"), ("engine",)
# The fields without which a rule would find errors that the user has not made.
_NEEDED: Mapping[Rule, tuple[FieldPath, ...]] = {
    network.check_subnet: (_SUBNET,), network.check_attachment: (_MODE,), _hosts: (_ENGINE,),
    network.check_addresses: (_SUBNET, ("network", "gateway"), ("network", "firstIp")),
    _options: (("etcd", "version"),), _tls: (("etcd", "tlsMinVersion"), ("pki", "keyType")),
    _host_networks: (_MODE, _ENGINE), _install: (("install", "method"),),
}  # fmt: skip
