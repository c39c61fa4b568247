"""`certs`: what certificates there are, and new ones for nodes that run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from generator.cli.files import bake
from generator.cli.shared import (
    ca_passphrase,
    open_cluster,
    print_json,
    print_table,
    progress_of,
    refuse_options_before,
)
from generator.options import ca_options, cluster_options, option, parameter, passphrase_option

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
      bake certs rotate --ca         a new CA, in three phases
      bake certs deliver             what a rotation that was cut off has left
    """
    if ctx.invoked_subcommand is not None:
        refuse_options_before(ctx)
        return
    from generator import certificates
    from generator.authorities import load_phase
    from generator.errors import UnhealthyError

    cluster = open_cluster(options)
    entries, phase = certificates.entries(cluster, now=datetime.now(UTC)), load_phase(cluster.store)
    outdated = certificates.outdated(cluster)
    if options["output"] == "json":
        print_json(certificates=[_as_data(entry) for entry in entries], outdated=outdated, ca_change=phase)
    elif not options["quiet"]:
        print_table([_as_row(entry, outdated) for entry in entries])
        if phase:
            click.echo(f"The CA is being changed (phase {phase}): bake certs rotate --ca goes on.", err=True)
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
@ca_options
@cluster_options
@passphrase_option
@wait_option
def rotate(nodes: tuple[str, ...], wait: int, ca: bool, **options: Any) -> None:
    """Make new certificates for all nodes, or those named, and bring them to nodes that run.

    Nothing is restarted: etcd reads its certificates anew at each handshake. It works as well when they have ended.
    Where bake does not run the VMs, put each node's new seed.iso into its drive: the node applies it at once.

    With --ca the CA is new too, in three phases: every node trusts both, gets certificates of the new one, trusts the
    old one no more. etcd is restarted twice on each node, one node after the other. If it is cut off, or a node is off,
    the same command goes on. At its end the old CA, with its key, is removed from the cluster's folder.

    \b
    Examples:
      bake certs rotate
      bake certs rotate etcd2 --name prod --connect qemu+ssh://host/system
      bake certs rotate --ca
      bake certs rotate --ca --ca-certificate corp.pem --ca-key corp.key
    """
    from generator.bake import bake as run
    from generator.rotation import refuse_while_changing, unchanged

    cluster = open_cluster(options)
    passphrase = ca_passphrase(options, cluster.plan.spec, cluster.store)
    following = _following(cluster, ca, nodes, passphrase, options)
    if ca:
        _change_ca(cluster, following, passphrase, wait, options)
        return
    refuse_while_changing(cluster)
    names = _chosen(nodes, [node.name for node in cluster.plan.nodes])
    with progress_of((), options) as progress:
        run(
            cluster.plan.spec, cluster.store, now=datetime.now(UTC), report=progress.line, passphrase=passphrase,
            renew=names, change=unchanged(cluster),
        )  # fmt: skip
        progress.line(f"new certificates for {', '.join(names)}")
    _deliver(cluster, names, wait, options)


@certs.command()
@click.argument("nodes", nargs=-1)
@cluster_options
@wait_option
def deliver(nodes: tuple[str, ...], wait: int, **options: Any) -> None:
    """Bring the nodes the certificates that their seeds have, where they do not serve them yet.

    It can be repeated: a running node that has the seed in its drive and did not take it gets it once more.

    \b
    Examples:
      bake certs deliver
      bake certs deliver etcd3 --wait 600
    """
    from generator.rotation import refuse_while_changing

    cluster = open_cluster(options)
    refuse_while_changing(cluster)
    _deliver(cluster, _chosen(nodes, [node.name for node in cluster.plan.nodes]), wait, options)


def _following(
    cluster: Any, ca: bool, nodes: tuple[str, ...], passphrase: bytes | None, options: Mapping[str, Any]
) -> dict[Any, Any]:
    """The CAs to change to that the options name, by role."""
    from generator.authorities import read_authority
    from generator.errors import InputError, Problem
    from generator.pki import Role

    found, problems = {}, []
    if ca and nodes:
        problems.append(Problem("--ca", f"is for the whole cluster, not for {', '.join(nodes)}", "leave the nodes out"))
    for role, prefix in ((Role.CA, "ca"), (Role.PEER_CA, "peer-ca")):
        flags = f"--{prefix}-certificate", f"--{prefix}-key"
        pair = [options[parameter(flag)] for flag in flags]
        if any(pair) and not ca:
            problems.append(Problem(flags[0] if pair[0] else flags[1], "has no meaning without --ca", "add --ca"))
        elif any(pair) and role is Role.PEER_CA and not cluster.plan.spec.pki.peer_ca.separate:
            problems.append(Problem(flags[0], "this cluster's peers have no CA of their own", "leave it out"))
        elif any(pair) and not all(pair):
            missing, other = (flags[0], flags[1]) if pair[1] else (flags[1], flags[0])
            problems.append(Problem(missing, f"is missing, and {other} is its other half", "both, or neither"))
        elif all(pair):
            paths = str(pair[0]), str(pair[1])
            found[role] = read_authority(
                cluster.plan, *paths, names=flags, now=datetime.now(UTC), passphrase=passphrase
            )
    if problems:
        raise InputError(problems)
    return found


def _change_ca(
    cluster: Any, following: dict[Any, Any], passphrase: bytes | None, wait: int, options: Mapping[str, Any]
) -> None:
    from generator.cluster import connect_if_possible
    from generator.errors import UnhealthyError
    from generator.rotation import rotate_authorities

    with progress_of((), options) as progress:
        connection = connect_if_possible(options["connect"])
        phase, found = rotate_authorities(
            cluster, connection, following, passphrase=passphrase, now=datetime.now(UTC), seconds=wait,
            report=progress.line,
        )  # fmt: skip
    _show(found, cluster, options, ca_change=phase)
    if phase:
        waits = ", ".join((*found.at_next_start, *found.by_hand))
        hint = "start what is off, put the new seed.iso into drives that are not bake's; then: bake certs rotate --ca"
        raise UnhealthyError(f"phase {phase} waits for {waits}", hint=hint)


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


def _show(found: Delivery, cluster: Any, options: Mapping[str, Any], **more: Any) -> None:
    if options["output"] == "json":
        lists = {"done": found.done, "at_next_start": found.at_next_start, "by_hand": found.by_hand}
        print_json(**{name: list(nodes) for name, nodes in lists.items()}, **more)
        return
    if options["quiet"]:
        return
    if found.done:
        click.echo(f"served: {', '.join(found.done)}")
    if found.at_next_start:
        click.echo(f"from the next start on: {', '.join(found.at_next_start)}")
    for name in found.by_hand:
        click.echo(f"{name} has no VM here: put {cluster.store.folder / name}/seed.iso into its drive", err=True)
