"""`certs`: what certificates there are, and new ones for nodes that run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from generator.cli.files import bake
from generator.cli.shared import ca_passphrase, open_cluster, print_json, print_table, progress_of
from generator.options import cluster_options, option, passphrase_option

if TYPE_CHECKING:
    from generator.certificates import Delivery, Entry

BAR = 10  # characters


def _days(_ctx: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """`30d`, or `30`."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})d?", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not a number of days such as 30d")
    return int(found[1])


@bake.group(invoke_without_command=True)
@cluster_options
@option("--within", callback=_days, metavar="DAYS", help="Fail (3) where one ends within that time, such as 30d.")
@click.pass_context
def certs(ctx: click.Context, /, within: int | None, **options: Any) -> None:
    """List the cluster's certificates; renew those of the nodes.

    The last column tells whether a node that answers serves the certificate that its seed has.

    \b
    Examples:
      bake certs
      bake certs --within 30d -o json
      bake certs rotate              new certificates for all nodes, delivered
      bake certs rotate etcd2
      bake certs deliver             what a rotation that was cut off has left
    """
    if ctx.invoked_subcommand is not None:
        return
    from generator import certificates
    from generator.errors import UnhealthyError

    cluster = open_cluster(options)
    entries = certificates.entries(cluster, now=datetime.now(UTC))
    outdated = certificates.outdated(cluster)
    if options["output"] == "json":
        print_json(certificates=[_as_data(entry) for entry in entries], outdated=outdated)
    elif not options["quiet"]:
        print_table([_as_row(entry, outdated) for entry in entries])
    soon = [f"{entry.owner} {entry.role}" for entry in entries if within is not None and entry.days_left < within]
    if soon:
        hint = "bake certs rotate renews the nodes', bake the operator's"
        raise UnhealthyError(f"less than {within} days are left: {', '.join(soon)}", hint=hint)


def _as_data(entry: Entry) -> dict[str, Any]:
    facts = entry.facts
    return {
        "owner": entry.owner,
        "role": str(entry.role),
        "names": list(facts.names),
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial": facts.serial,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "days_left": entry.days_left,
    }


def _as_row(entry: Entry, outdated: Mapping[str, bool | None]) -> dict[str, str]:
    served = {True: "no", False: "yes", None: "-"}[outdated.get(entry.owner)] if entry.role == "etcd-server" else ""
    return {
        "owner": entry.owner,
        "role": str(entry.role),
        "days left": f"{_bar(entry.days_left, entry.days)} {entry.days_left}",
        "names": " ".join(entry.facts.names),
        "issuer": entry.facts.issuer,
        "serial": entry.facts.serial[:16],
        "served": served,
    }


def _bar(left: int, whole: int) -> str:
    full = max(0, min(BAR, round(BAR * left / max(whole, 1))))
    return "█" * full + "░" * (BAR - full)


wait_option = option("--wait", type=int, default=180, show_default=True, help="Seconds to wait for each node.")


@certs.command()
@click.argument("nodes", nargs=-1)
@cluster_options
@passphrase_option
@wait_option
def rotate(nodes: tuple[str, ...], wait: int, **options: Any) -> None:
    """Make new certificates for all nodes, or those named, and bring them to nodes that run.

    Nothing is restarted: etcd reads its certificates anew at each handshake. It works as well when they have ended.
    Where bake does not run the VMs, put each node's new seed.iso into its drive: the node applies it at once.

    \b
    Examples:
      bake certs rotate
      bake certs rotate etcd2 --name prod --connect qemu+ssh://host/system
    """
    from generator.bake import bake as run

    cluster = open_cluster(options)
    names = _chosen(nodes, [node.name for node in cluster.plan.nodes])
    passphrase = ca_passphrase(options, cluster.plan.spec, cluster.store)
    with progress_of((), options) as progress:
        run(
            cluster.plan.spec, cluster.store, now=datetime.now(UTC), report=progress.line, passphrase=passphrase,
            renew=names,
        )  # fmt: skip
        progress.line(f"new certificates for {', '.join(names)}")
    _deliver(cluster, names, wait, options)


@certs.command()
@click.argument("nodes", nargs=-1)
@cluster_options
@wait_option
def deliver(nodes: tuple[str, ...], wait: int, **options: Any) -> None:
    """Bring the nodes the certificates that their seeds have, where they do not serve them yet.

    \b
    Examples:
      bake certs deliver
      bake certs deliver etcd3 --wait 600
    """
    cluster = open_cluster(options)
    _deliver(cluster, _chosen(nodes, [node.name for node in cluster.plan.nodes]), wait, options)


def _chosen(wanted: Iterable[str], planned: list[str]) -> list[str]:
    from generator.errors import InputError, Problem

    wanted = list(dict.fromkeys(wanted)) or planned
    rule = f"is not one of {', '.join(planned)}"
    unknown = [Problem("NODE", f"{name!r} {rule}") for name in wanted if name not in planned]
    if unknown:
        raise InputError(unknown)
    return wanted


def _deliver(cluster: Any, names: list[str], wait: int, options: Mapping[str, Any]) -> None:
    from generator import certificates
    from generator.cluster import connect_if_possible

    with progress_of((), options) as progress:
        connection = connect_if_possible(options["connect"])
        found = certificates.deliver(cluster, connection, names, seconds=wait, report=progress.line)
    _show(found, cluster, options)


def _show(found: Delivery, cluster: Any, options: Mapping[str, Any]) -> None:
    if options["output"] == "json":
        lists = {"done": found.done, "at_next_start": found.at_next_start, "by_hand": found.by_hand}
        print_json(**{name: list(nodes) for name, nodes in lists.items()})
        return
    if options["quiet"]:
        return
    if found.done:
        click.echo(f"served: {', '.join(found.done)}")
    if found.at_next_start:
        click.echo(f"from the next start on: {', '.join(found.at_next_start)}")
    for name in found.by_hand:
        click.echo(f"{name} has no VM here: put {cluster.store.folder / name}/seed.iso into its drive", err=True)
