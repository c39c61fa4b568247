"""The sections `hosts` and `incus` of a cluster file: what runs the nodes, and which host gets which node. Pure.

With libvirt, the section `hosts` names the hosts, and bake places the nodes. With Incus, the hosts are the members of
an Incus cluster, which only Incus knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import Finding, duplicates, list_of, scalar, setting


class EngineKind(StrEnum):
    """What runs the nodes: libvirt runs VMs, Incus runs containers."""

    LIBVIRT = "libvirt"
    INCUS = "incus"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """A host in the field `hosts`."""

    name: str = setting(scalar(values.name), "the host's name, a host name label such as host1")
    uri: str = setting(
        scalar(values.libvirt_uri), "the URI of the host's libvirt, such as qemu+ssh://root@host1/system"
    )
    failure_domain: str | None = setting(
        scalar(values.token),
        "a name for what fails together with the host, such as rack1; default: the host's name",
        default=None,
    )
    bridge: str | None = setting(
        scalar(values.interface),
        "the name of the bridge on this host; only with `mode: bridge`; default: network.bridge",
        default=None,
    )
    pool: str | None = setting(
        scalar(values.folder),
        "the folder on this host in which bake makes the cluster's storage pool; default: libvirt's folder",
        default=None,
    )

    offline: bool = setting(
        scalar(values.flag), "true if the host is out of service, so that only `nodes[].host` can choose it",
        default=False,
    )

    @property
    def domain(self) -> str:
        return self.failure_domain or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class IncusSpec:
    """The section `incus`: an Incus server or cluster, and where it has the nodes' containers."""

    remote: str = setting(
        scalar(values.token),
        "the name of a remote of the program `incus`, see `incus remote list`; local means the socket on this machine",
        default="local",
    )
    addresses: tuple[str, ...] = setting(
        list_of(scalar(values.incus_url)),
        "URLs of other members of the remote's cluster, such as https://host2:8443, if the remote does not answer",
        default=(),
    )
    project: str = setting(
        scalar(values.token), "the Incus project of the nodes' instances and volumes", default="default"
    )
    pool: str = setting(
        scalar(values.token), "the Incus storage pool of the nodes' disks, volumes and seeds", default="default"
    )
    profile: str | None = setting(
        scalar(values.token), "an Incus profile for the nodes' instances; default: no profile", default=None
    )
    nic: str = setting(
        scalar(values.choice("bridged", "macvlan")),
        "with `mode: bridge`: bridged (network.bridge is a bridge of each member) or macvlan (network.bridge is a "
        "network interface of each member)",
        default="bridged",
    )
    group: str | None = setting(
        scalar(values.token), "the Incus cluster group that gets the nodes; default: all members", default=None
    )


def place(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> list[str]:
    """Return the host of each node. Without hosts, return the pin, or an empty text.

    `pins`: for each node, the host that the user has chosen, or None. A node without a pin gets a host in the failure
    domain with the fewest nodes, and there the host with the fewest nodes. The first host wins a tie. So a new node at
    the end moves no other node.
    """
    if not hosts:
        return [pin or "" for pin in pins]
    domains = {host.name: host.domain for host in hosts}
    online = [host.name for host in hosts if not host.offline] or list(domains)
    on_host: Counter[str] = Counter(pin for pin in pins if pin in domains)
    in_domain: Counter[str] = Counter(domains[pin] for pin in pins if pin in domains)
    placed = []
    for pin in pins:
        name = pin
        if name is None:
            name = min(online, key=lambda one: (in_domain[domains[one]], on_host[one]))
            on_host[name] += 1
            in_domain[domains[name]] += 1
        placed.append(name)
    return placed


def check_hosts(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> Iterator[Finding]:
    """Check the rules between the hosts, and between the hosts and the nodes."""
    for field in ("name", "uri"):
        for index, first in duplicates([getattr(host, field) for host in hosts]):
            message = f"{getattr(hosts[index], field)!r} is already the {field} of hosts[{first}]"
            yield ("hosts", index, field), message, "each host has its own name and its own libvirt"
    names = [host.name for host in hosts]
    for index, pin in enumerate(pins):
        if pin is not None and pin not in names:
            remedy = f"use one of {', '.join(names)}" if names else "add the host to hosts"
            yield ("nodes", index, "host"), f"there is no host {pin!r}", remedy
    if hosts and _is_valid(hosts, pins):
        yield from _check_quorum(hosts, pins)


def warn_of_domains(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> Iterator[Finding]:
    """Warn of a failure domain without which the cluster has no quorum, if the hosts allow no better placement."""
    if not hosts or not _is_valid(hosts, pins) or _can_spread(hosts, len(pins)):
        return
    for domain, number in _too_many(hosts, pins).items():
        message = f"{number} of {len(pins)} nodes are in the failure domain {domain}; without it there is no quorum"
        yield ("hosts",), message, "add a host in another failure domain"


def _is_valid(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> bool:
    names = [host.name for host in hosts]
    return len(set(names)) == len(names) and all(pin is None or pin in names for pin in pins)


def _can_spread(hosts: Sequence[HostSpec], nodes: int) -> bool:
    """Return whether a quorum can survive the loss of each failure domain, if the nodes are spread evenly."""
    domains = len({host.domain for host in hosts if not host.offline})
    return domains > 0 and -(-nodes // domains) <= (nodes - 1) // 2


def _check_quorum(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> Iterator[Finding]:
    if not _can_spread(hosts, len(pins)):
        return
    domains = {host.name: host.domain for host in hosts}
    for domain, number in _too_many(hosts, pins).items():
        pinned = [index for index, pin in enumerate(pins) if pin is not None and domains[pin] == domain]
        message = f"{number} of {len(pins)} nodes are in the failure domain {domain}; without it there is no quorum"
        yield ("nodes", pinned[-1], "host"), message, "choose a host in another failure domain, or leave the field out"


def _too_many(hosts: Sequence[HostSpec], pins: Sequence[str | None]) -> Mapping[str, int]:
    """Return each failure domain whose loss costs the quorum, with the number of its nodes.

    A cluster of one or two nodes survives the loss of no node, so it has no such rule.
    """
    domains = {host.name: host.domain for host in hosts}
    numbers = Counter(domains[name] for name in place(hosts, pins))
    most = (len(pins) - 1) // 2
    return {domain: number for domain, number in numbers.items() if len(pins) >= 3 and number > most}


def check_incus(incus: IncusSpec, hosts: Sequence[HostSpec], engine: EngineKind) -> Iterator[Finding]:
    """Check that the sections `hosts` and `incus` belong to the engine."""
    if engine is not EngineKind.INCUS and incus != IncusSpec():
        yield ("incus",), f"has no effect with engine {engine}", "set engine: incus, or leave the section out"
    if engine is EngineKind.INCUS and hosts:
        yield ("hosts",), "has no effect with engine incus, because Incus knows its members", "leave the section out"
