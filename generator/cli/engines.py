"""Make the engine through which a command reaches the machines of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from generator.cli.common import image_cache, reporter

if TYPE_CHECKING:
    from generator.config.hosts import HostSpec
    from generator.config.spec import ClusterSpec
    from generator.engine import Engine, Hosts, MachineStatus
    from generator.image.base import BootImage
    from generator.incus import Incus
    from generator.operations.baked_cluster import Cluster
    from generator.progress import Report

Answer = TypeVar("Answer")


def connect(options: Mapping[str, Any]) -> Hosts:
    """Connect to libvirt, for a command that needs no plan of a cluster.

    If the folder of the cluster has a specification with hosts or with Incus, connect to these.
    """
    from generator import vm
    from generator.engine import OnHosts

    spec = _kept_spec(options)
    if spec is not None and _is_incus(spec):
        from generator.incus import IncusHosts

        return IncusHosts(incus=_incus(options, spec), pool=spec.incus.pool, report=reporter(options))
    uris = _uris(options, spec.hosts if spec else ())
    if not uris:
        return vm.LibvirtHosts(connection=vm.connect(options["connect"]))
    return OnHosts(
        hosts=tuple(uris), connect=lambda name: vm.LibvirtHosts(connection=vm.connect(uris[name])),
        report=reporter(options),
    )  # fmt: skip


def _is_incus(spec: ClusterSpec) -> bool:
    from generator.config.hosts import EngineKind

    return spec.engine is EngineKind.INCUS


def _incus(options: Mapping[str, Any], spec: ClusterSpec) -> Incus:
    """Connect to the Incus remote of a spec. Raise InputError if the user also gave --connect, which is for libvirt."""
    from generator import incus
    from generator.errors import InputError

    if options.get("connect") is not None:
        rule = "has no effect, because the cluster file has engine: incus"
        raise InputError.one("--connect", f"{options['connect']} {rule}", "leave --connect out")
    return incus.connect(incus.find_remote(spec.incus.remote, spec.incus.addresses), spec.incus.project)


def _uris(options: Mapping[str, Any], hosts: Iterable[HostSpec]) -> dict[str, str]:
    """Return the URI of each host. Raise InputError if the user also gave --connect, which names one host only."""
    from generator.errors import InputError

    uris = {host.name: host.uri for host in hosts}
    if uris and options["connect"] is not None:
        rule = "has no effect, because the cluster file names the hosts"
        raise InputError.one("--connect", f"{options['connect']} {rule}", "leave --connect out")
    return uris


def require_hosts(options: Mapping[str, Any], spec: ClusterSpec) -> None:
    """Raise BakeError if libvirt does not answer on a host of the spec, or if Incus lacks what the spec names."""
    from generator import vm
    from generator.engine import connect_all

    if _is_incus(spec):
        from generator.incus import require_section

        require_section(_incus(options, spec), spec)
        return
    if uris := _uris(options, spec.hosts):
        connect_all({name: partial(vm.connect, uri) for name, uri in uris.items()})
    else:
        vm.connect(options["connect"])


def silent_hosts(hosts: Iterable[HostSpec]) -> set[str]:
    """Return the names of the hosts whose libvirt does not answer."""
    from generator import vm
    from generator.errors import BakeError

    def is_silent(host: HostSpec) -> bool:
        try:
            vm.connect(host.uri)
        except BakeError:
            return True
        return False

    return {host.name for host in hosts if is_silent(host)}


def require_member(options: Mapping[str, Any], spec: ClusterSpec, name: str) -> None:
    """Raise InputError if the Incus cluster of a spec has no member `name`, and BakeError if the member is off."""
    from generator.incus import find_member

    find_member(_incus(options, spec), name, "--host")


def _kept_spec(options: Mapping[str, Any]) -> ClusterSpec | None:
    """Return the specification of the cluster that the options name, if its folder has one."""
    from generator.store.existing_cluster import load_existing
    from generator.store.folder import Store

    existing = load_existing(Store(options["out"], options["name"])) if options.get("name") else None
    return existing.spec if existing else None


def make_engine(
    options: Mapping[str, Any],
    report: Report,
    cluster: Cluster,
    *,
    image: BootImage | None = None,
    remedy: Callable[[], str] | None = None,
) -> Engine:
    """Connect to libvirt or Incus, and return the engine of the cluster's machines.

    `image`: the image for new disks. The default is the image that `new_disk_image` returns. `remedy`: returns
    the command that completes an interrupted change, by default `bake apply` for this cluster.
    """
    from generator import vm
    from generator.engine import EngineOnHosts
    from generator.operations.hints import command
    from generator.operations.running.chosen_image import new_disk_image

    plan, for_cluster = cluster.plan, partial(command, cluster.store, connect=options.get("connect"))
    remedy = remedy or partial(for_cluster, "apply")

    @cache
    def load_image() -> BootImage:
        return image or new_disk_image(cluster, image_cache(options), report)

    if _is_incus(plan.spec):
        from generator.incus import IncusEngine

        return IncusEngine(
            incus=_incus(options, plan.spec), plan=plan, cluster_id=cluster.cluster_id, seeds=cluster.store.folder,
            load_image=load_image, report=report, remedy=remedy, command=for_cluster,
        )  # fmt: skip
    uris, hosts = _uris(options, plan.spec.hosts), {host.name: host for host in plan.spec.hosts}

    def on(uri: str | None, **more: Any) -> Engine:
        settings = {"plan": plan, "report": report, **more}
        return vm.LibvirtEngine(
            connection=vm.connect(uri), cluster_id=cluster.cluster_id, seeds=cluster.store.folder,
            accel=options.get("accel", "auto"), remedy=remedy, command=for_cluster,
            load_image=load_image, **settings,
        )  # fmt: skip

    def connect_to(name: str) -> Engine:
        host = hosts[name]
        network = plan.network._replace(bridge=host.bridge or plan.network.bridge)
        return on(
            uris[name], plan=replace(plan, network=network), pool=host.pool or "",
            report=lambda line: report(f"{name}: {line}"),
        )  # fmt: skip

    if not hosts:
        return on(options["connect"])
    placement = {node.name: node.host for node in plan.nodes}
    return EngineOnHosts(placement=placement, hosts=tuple(hosts), connect=connect_to, report=report)


def engine_if_possible(
    options: Mapping[str, Any], report: Report, cluster: Cluster, *, remedy: str
) -> Engine | None:
    """Return the engine. Return None if libvirt does not answer and the user gave no --connect.

    `remedy`: the subcommand that completes an interrupted change, for example `certs deliver`.
    """
    from generator.operations.hints import command

    again = partial(command, cluster.store, remedy)
    return _if_possible(options, lambda: make_engine(options, report, cluster, remedy=again))


def machines_if_possible(
    options: Mapping[str, Any], report: Report, cluster: Cluster
) -> Mapping[str, MachineStatus]:
    """Return what the engine's `machines` returns, or nothing if libvirt fails and the user gave no --connect."""
    told = report if _is_incus(cluster.plan.spec) else None
    return _if_possible(options, lambda: make_engine(options, report, cluster).machines(), told) or {}


def _if_possible(
    options: Mapping[str, Any], ask: Callable[[], Answer], report: Report | None = None
) -> Answer | None:
    """Return the answer, or None after an error. `report`: gets the error, if the cluster file says what to ask."""
    from generator.errors import BakeError

    try:
        return ask()
    except BakeError as error:
        if options["connect"] is not None:
            raise
        if report is not None:
            report(f"warning: {error.message}")
        return None  # the machines may run on another host
