"""`bake certs`: list certificates, renew them, and deliver them to running nodes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.ca_options import given_cas
from generator.cli.common import (
    announce_rotation,
    ca_passphrase,
    changing,
    print_json,
    progress_of,
    refuse_misplaced,
)
from generator.cli.local.suggestions import suggest_certificate, suggest_node
from generator.cli.options import (
    ca_options,
    cluster_options,
    node_wait_option,
    passphrase_option,
    wide_option,
    within_option,
)
from generator.cli.output.certificate_rows import as_data, as_row
from generator.cli.output.table import print_table, terminal_width, wraps
from generator.cli.reach import open_running, start_task_if_silent
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.change.spec_changes import Change
    from generator.operations.running.delivery import Delivery


@bake.group(invoke_without_command=True)
@cluster_options
@within_option
@wide_option
@click.pass_context
def certs(ctx: click.Context, /, within: int | None, **options: Any) -> None:
    """List the cluster's certificates, or renew them.

    The column SERVED shows whether a node serves the certificate in its seed. The value "-" in the column SERVED means
    that the node does not answer. A terminal that is narrower than the table shows no serial numbers and issuers.

    With -o json the output has the keys certificates, outdated and ca_change. Each certificate has the keys owner,
    role, names, subject, issuer, serial, not_before, not_after and days_left. The key outdated has true for a node that
    does not serve the certificate in its seed, and null for a node that does not answer. The key ca_change has the
    phase of a CA change, or null.

    \b
    Examples:
      bake certs
      bake certs --wide
      bake certs --within 30d -o json
      bake certs rotate              renew the certificates of all nodes and deliver them
      bake certs rotate etcd2        renew the certificates of one node and deliver them
      bake certs rotate operator     renew the operator's client certificate
      bake certs rotate --ca         replace the CA, in three phases
      bake certs deliver             complete a renewal that was interrupted
    """
    if ctx.invoked_subcommand is not None:
        refuse_misplaced(ctx)
        return
    from generator.errors import UnhealthyError
    from generator.operations import certs
    from generator.operations.hints import command
    from generator.operations.running import delivery
    from generator.store.cas import load_phase

    cluster = open_running(options)
    entries, phase = certs.entries(cluster, now=datetime.now(UTC)), load_phase(cluster.store)
    outdated = delivery.outdated(cluster)
    if options["output"] == "json":
        print_json(certificates=[as_data(entry) for entry in entries], outdated=outdated, ca_change=phase)
    elif not options["quiet"]:
        width, drop = None if options["wide"] else terminal_width(), ["serial", "issuer"]
        rows = [as_row(entry, outdated, bars=sys.stdout.isatty()) for entry in entries]
        if wraps(rows, width, "days left", drop=drop):
            rows = [as_row(entry, outdated, bars=False) for entry in entries]
        print_table(rows, wide=options["wide"], drop=drop)
        if phase:
            remedy = command(cluster.store, "certs rotate --ca")
            click.echo(f"A CA change is in progress (phase {phase}). To continue, run {remedy}", err=True)
    expiring = [entry for entry in entries if within is not None and entry.days_left < within]
    if expiring:
        named = ", ".join(f"{entry.owner} {entry.role}" for entry in expiring)
        text = f"these certificates expire in less than {within} days: {named}"
        raise UnhealthyError(text, hint=certs.renewal(cluster, expiring))


@certs.command()
@click.argument("names", nargs=-1, shell_complete=suggest_certificate)
@ca_options
@cluster_options
@passphrase_option
@node_wait_option
def rotate(names: tuple[str, ...], wait: int, ca: bool, all_phases: bool, **options: Any) -> None:
    """Renew the certificates of all nodes, or of the named nodes, and deliver them to running nodes.

    Without --ca, the command does not restart etcd: etcd reads its certificates again at each TLS handshake. The
    command works even after the certificates have expired. If bake did not create the VMs, insert each node's new
    seed.iso into the VM's CD-ROM drive. The node applies the new ISO immediately.

    After an update of bake, a new seed can contain configuration changes. A node applies most of them immediately. If
    nodes must reboot to apply the others, the command names the nodes and exits with code 3.

    With the argument `operator`, the command renews the operator's client certificate. With the argument `user:NAME`,
    the command renews the client certificate of an etcd user. bake writes new client certificates to the cluster's
    folder.

    With --ca, the command replaces the CA in three phases. In the first phase, every node starts to trust both CAs. In
    the second phase, every node gets certificates of the new CA. In the third phase, every node stops trusting the old
    CA. The command restarts etcd twice on each node, and never on more than one node at a time. The command stops after
    each phase and prints what applications need before the next phase. To continue, or to complete an interrupted
    phase, run the same command again. The last phase removes the old CA and its key from the cluster's folder.

    \b
    Examples:
      bake certs rotate
      bake certs rotate etcd2 --name prod --connect qemu+ssh://host/system
      bake certs rotate operator user:app1
      bake certs rotate --ca
      bake certs rotate --ca --all-phases
      bake certs rotate --ca --ca-certificate corp.pem --ca-key corp.key
    """
    from generator.operations.certs import refuse_during_rotation

    cluster = open_running(options)
    passphrase = ca_passphrase(options, cluster.plan.spec, cluster.store)
    new_cas = given_cas(cluster, ca, all_phases, names, passphrase, options)
    with changing(cluster, "bake certs rotate --ca" if ca else "bake certs rotate"):
        if ca:
            _rotate_ca(cluster, new_cas, passphrase, wait, all_phases, options)
            return
        refuse_during_rotation(cluster)
        _renew(cluster, names, passphrase, wait, options)


def _renew(
    cluster: Any, names: tuple[str, ...], passphrase: bytes | None, wait: int, options: Mapping[str, Any]
) -> None:
    """Renew the certificates of the given nodes and clients, and deliver the nodes' certificates.

    If `names` is empty, renew the certificates of all nodes.
    """
    from generator.operations.bake import bake as run
    from generator.operations.baked_cluster import unchanged
    from generator.operations.certs import renewable_clients

    changes: list[Change] = []
    clients, nodes = renewable_clients(cluster.plan), [node.name for node in cluster.plan.nodes]
    chosen = _chosen(names, nodes, "NAME", [*clients])
    with progress_of((), options) as progress:
        run(
            cluster.plan.spec, cluster.store, now=datetime.now(UTC), report=progress.line, passphrase=passphrase,
            renew=[clients[name].owner if name in clients else name for name in chosen], change=unchanged(cluster),
            announce=partial(announce_rotation, cluster.store, cluster.plan.spec, options, changes),
        )  # fmt: skip
        progress.line(f"new certificates for {', '.join(chosen)}")
    files = {name: str(cluster.store.folder / clients[name].path) for name in chosen if name in clients}
    more = {"changes": [change.data for change in changes], "clients": files}
    _deliver(open_running(options), [name for name in chosen if name in nodes], wait, options, **more)


@certs.command()
@click.argument("nodes", nargs=-1, shell_complete=suggest_node)
@cluster_options
@node_wait_option
def deliver(nodes: tuple[str, ...], wait: int, **options: Any) -> None:
    """Insert the new seed into the drive of each node that does not serve its new certificate yet.

    If a running node has not applied its seed, run the command again to insert the seed again.

    \b
    Examples:
      bake certs deliver
      bake certs deliver etcd3 --wait 600
    """
    from generator.operations.certs import refuse_during_rotation

    cluster = open_running(options)
    with changing(cluster, "bake certs deliver"):
        refuse_during_rotation(cluster)
        _deliver(cluster, _chosen(nodes, [node.name for node in cluster.plan.nodes]), wait, options)


def _rotate_ca(
    cluster: Any, new_cas: dict[Any, Any], passphrase: bytes | None, wait: int, all_phases: bool,
    options: Mapping[str, Any],
) -> None:  # fmt: skip
    from generator.errors import UnhealthyError
    from generator.operations.baked_cluster import without_ca_files
    from generator.operations.hints import command
    from generator.operations.rotate_ca import next_phase, rotate_authorities, task_after

    changes: list[Change] = []
    announce = partial(announce_rotation, cluster.store, without_ca_files(cluster.plan.spec), options, changes)
    with progress_of((), options) as progress:
        engine = engines.engine_if_possible(options, progress.line, cluster, remedy="certs rotate --ca")
        phase, found = rotate_authorities(
            cluster, engine, new_cas, passphrase=passphrase, now=datetime.now(UTC), seconds=wait,
            report=progress.line, all_phases=all_phases, announce=announce,
        )  # fmt: skip
    task, following = task_after(cluster, phase), next_phase(phase)
    again = f"then run {command(cluster.store, 'certs rotate --ca')}"
    _show(
        found, cluster, options, ca_change=phase, complete=not found.waiting, next=following, task=task,
        changes=[change.data for change in changes],
    )  # fmt: skip
    if found.waiting:
        hint = "start stopped nodes; if bake did not create a node's VM, insert the new seed.iso into the VM's drive"
        hint = _reboot_hint(cluster) if found.after_restart else hint
        hint = "; ".join((hint, task, again) if following else (hint, again))
        raise UnhealthyError(f"phase {phase} waits for {', '.join(found.waiting)}", hint=hint)
    if options["output"] == "text" and not options["quiet"]:
        text = f"phase {phase} is complete; do this before phase {following}:"
        click.echo(text if phase else "the CA change is complete:")
        click.echo(f"  {task}; {again}" if phase else f"  {task}")


def _chosen(wanted: Iterable[str], planned: list[str], what: str = "NODE", others: Iterable[str] = ()) -> list[str]:
    """Return the names in `wanted` without duplicates. If `wanted` is empty, return all names in `planned`.

    Raise InputError for a name that is neither in `planned` nor in `others`.
    """
    from generator.errors import InputError, Problem

    wanted, known = list(dict.fromkeys(wanted)) or planned, [*planned, *others]
    rule = f"is not one of {', '.join(known)}"
    unknown = [Problem(what, f"{name!r} {rule}") for name in wanted if name not in known]
    if unknown:
        raise InputError(unknown)
    return wanted


def _deliver(cluster: Any, names: list[str], wait: int, options: Mapping[str, Any], **more: Any) -> None:
    from generator.errors import UnhealthyError
    from generator.operations.running import delivery

    found = delivery.Delivery()
    with progress_of((), options) as progress:
        if names:
            engine = engines.engine_if_possible(options, progress.line, cluster, remedy="certs deliver")
            found = delivery.deliver(cluster, engine, names, seconds=wait, report=progress.line)
    _show(found, cluster, options, **more)
    if found.after_restart:
        text = f"{', '.join(found.after_restart)}: some configuration changes in the new seed apply at the next boot"
        raise UnhealthyError(text, hint=_reboot_hint(cluster))


def _reboot_hint(cluster: Any) -> str:
    from generator.operations.hints import command

    return f"to reboot one node after the other, run {command(cluster.store, 'apply')}"


def _show(found: Delivery, cluster: Any, options: Mapping[str, Any], **more: Any) -> None:
    if options["output"] == "json":
        print_json(**asdict(found), **more)
        return
    if options["quiet"]:
        return
    if found.done:
        click.echo(f"nodes that applied their seeds: {', '.join(found.done)}")
    if found.at_next_start:
        click.echo(f"nodes that apply their seeds at the next start: {', '.join(found.at_next_start)}")
    for name, path in more.get("clients", {}).items():
        click.echo(f"{name}: {path}")
    if found.by_hand and (start := start_task_if_silent(options, cluster)):
        click.echo(f"{start.task}\n  hint: {start.remedy}", err=True)
    for name in found.by_hand:
        click.echo(f"{name}: bake finds no VM; insert {cluster.store.folder / name}/seed.iso into its drive", err=True)
    if found.by_hand:
        click.echo("reboot a node if its console reports `a new seed takes effect at the next boot`", err=True)
