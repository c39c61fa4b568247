"""The commands for the VMs and the running cluster, such as `bake up` and `bake verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.change import run_apply
from generator.cli.common import (
    bake_agreed,
    confirm,
    image_cache,
    load,
    open_cluster,
    print_json,
    progress_of,
    reporter,
    show_names,
    show_verification,
)
from generator.cli.options import (
    cluster_options,
    interval_option,
    spec_options,
    up_options,
    wide_option,
    yes_option,
)
from generator.cli.output.table import print_table
from generator.cli.reach import open_running, open_started, reach, start_task_if_silent
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.config.spec import ClusterSpec
    from generator.store.folder import Store


@bake.command()
@spec_options
@up_options
@yes_option
def up(**options: Any) -> None:
    """Create the ISOs, boot the nodes with libvirt or Incus, wait until they run etcd, and verify the cluster.

    After an interruption, run the command again without options to do the missing steps.

    For a cluster that has started, the command does the same as `bake apply`: it adds, removes, updates and starts
    nodes one at a time. It asks for confirmation only if something is deleted or clients are affected.

    \b
    Examples:
      bake up --nodes 3
      bake up --nodes 5 --memory 2048 --connect qemu+ssh://host/system
      bake up --config cluster.yaml --wait 300 -o json
    """
    if _has_started(options):
        reporter(options)("this cluster has started before, so `bake up` does the same as `bake apply`")
        run_apply(options, lambda _left: "up", asks=False)
        return
    from generator.operations.hints import command
    from generator.store.folder import Store

    result, changes = bake_agreed(options, partial(_up, options))
    show_verification(result, options, changes=[change.data for change in changes])
    if options["output"] == "text" and not options["quiet"]:
        etcdctl = command(Store(options["out"], result.cluster), "etcdctl")
        click.echo(f"To use the cluster, run: {etcdctl} member list", err=True)


def _has_started(options: Mapping[str, Any]) -> bool:
    """Return whether the options name an existing cluster that has started."""
    existing = load({**options, "quiet": True}).existing
    return existing is not None and existing.sealed


def _up(options: Mapping[str, Any], spec: ClusterSpec, store: Store, **agreed: Any) -> Any:
    from generator.config.placement import node_names
    from generator.operations import up
    from generator.operations.hints import command

    engines.require_hosts(options, spec)  # nothing is baked if libvirt does not answer
    _refuse_old_machines(options, store)
    connect = options["connect"]
    try:
        with progress_of(node_names(spec), options) as progress:
            boot = up.Boot(
                engine=lambda cluster, image: engines.make_engine(
                    options, progress.line, cluster, image=image, remedy=partial(command, store, "up", connect=connect)
                ),
                wait=options["wait"], cache=image_cache(options), reach=partial(reach, options), connect=connect,
            )  # fmt: skip
            return up.up(spec, store, boot, now=datetime.now(UTC), progress=progress, **agreed)
    except KeyboardInterrupt:
        remove = command(store, "destroy", connect=connect)
        click.echo(f"To continue, run the same command. To remove the VMs, run `{remove}`.", err=True)
        raise


def _refuse_old_machines(options: Mapping[str, Any], store: Store) -> None:
    """Raise BakeError if an interrupted restore has left VMs of the lost cluster."""
    from generator.layout import SPEC
    from generator.operations.baked_cluster import open_cluster as reopen
    from generator.operations.recovery.pending import pending_snapshot, refuse_old_machines

    if store.read(SPEC) is None:
        return
    cluster = reopen(store)
    if pending_snapshot(cluster):
        refuse_old_machines(cluster, engines.make_engine(options, reporter(options), cluster).machines())


@bake.command()
@yes_option
@cluster_options
def seal(**options: Any) -> None:
    """Remove the bootstrap permit, a secret for starting a new cluster, from the first node's ISO.

    `bake up` removes the bootstrap permit automatically. Without `bake up`, run `bake seal` as soon as the cluster
    runs. If the first node of a sealed cluster loses its disk, the node joins the other nodes again and cannot start a
    second cluster. The command replaces the ISO in the drive of the first node's VM, even while the VM runs.

    If no member answers, the command asks for confirmation, because the cluster may never have started.

    To start a lost cluster anew, delete the file `sealed` in the cluster's folder and run `bake`.

    \b
    Examples:
      bake seal
      bake seal --name prod --connect qemu+ssh://host/system
    """
    from generator.operations.seal import seal as run

    opened = open_running(options)

    def consent(doubt: str) -> None:
        confirm(f"{doubt}. Seal the cluster?", options, [doubt])

    report = reporter(options)
    engine = engines.engine_if_possible(options, report, opened, remedy="seal")
    done = run(opened, engine, now=datetime.now(UTC), report=report, consent=consent)
    for warning in done.warnings:
        report(f"warning: {warning}")
    if options["output"] == "json":
        print_json(**asdict(done))
    elif not options["quiet"]:
        text = f"{opened.plan.name} is sealed" + ("" if done.files or done.vm else " already")
        click.echo(f"{text}; the ISO in {done.node}'s drive was replaced" if done.vm else text)


@bake.command()
@click.option("--watch", is_flag=True, help="Show the members in a live table; q or Ctrl-C ends. Needs a terminal.")
@interval_option
@cluster_options
@wide_option
def status(interval: float | None, **options: Any) -> None:
    """Show each node's VM and etcd member, and your pending tasks.

    The exit code is 0 also if nodes do not answer, or if there are tasks. For an exit code, use `bake verify`.

    With --watch, a live table shows each member's role, its revision, the size of its database, the part of the
    database in use, the log entries that the member lacks (LAG), and the days until the first of its certificates
    expires. Below the table are alarms and tasks. The live table does not show the VMs.

    With -o json each node has the keys node, vm (null without libvirt), address, reachable, member_id, role (leader,
    voter, learner or unstarted), version, db_size and db_in_use (in bytes), revision, raft_index and error. An unknown
    value is null.

    \b
    Examples:
      bake status
      bake status --watch --interval 5
      bake status --name prod -o json
    """
    from generator.cli.output.watch import refuse_watch, watch
    from generator.operations.status import status as look
    from generator.operations.status import status_data, status_row

    refuse_watch(options)
    cluster = open_running(options)
    if options["watch"]:
        # A warning would spoil the live table.
        watch(cluster, interval or 2.0, partial(start_task_if_silent, {**options, "quiet": True}, cluster))
        return
    machines = engines.machines_if_possible(options, reporter(options), cluster)
    seen = look(cluster, machines, now=datetime.now(UTC), connect=options["connect"])
    if options["output"] == "json":
        nodes = [status_data(node, vm) for node, vm in seen.nodes]
        print_json(nodes=nodes, sealed=seen.sealed, tasks=[asdict(task) for task in seen.tasks])
    elif not options["quiet"]:
        rows = [status_row(node, vm) for node, vm in seen.nodes]
        print_table(rows, wide=options["wide"], drop=["id", "raft index", "vm"])
        click.echo(f"\nsealed: {'yes' if seen.sealed else 'no'}")
        print_table([{"to do": task.task, "remedy": task.remedy} for task in seen.tasks], wide=options["wide"])


@bake.command()
@cluster_options
def verify(**options: Any) -> None:
    """Check the members and the health of the running cluster. Check that the cluster refuses unauthorized clients.

    The command writes and reads keys through every member. The exit code is 3 if a check fails, or if bake cannot
    check every node.

    \b
    Examples:
      bake verify
      bake verify -o json
    """
    from generator.operations.verify import verify_cluster

    with progress_of((), options) as progress:
        result = verify_cluster(open_started(options), now=datetime.now(UTC), report=progress.line)
    show_verification(result, options)


@bake.command()
@cluster_options
@wide_option
def audit(**options: Any) -> None:
    """Audit the running cluster against the etcd controls of the CIS benchmark. Check the cluster's TLS settings.

    On a terminal that is narrower than the table, the remedies are below the table. The exit code is 3 if a control
    does not pass.

    \b
    Examples:
      bake audit
      bake audit --wide
      bake audit -o json
    """
    from generator.errors import UnhealthyError
    from generator.operations import audit as auditing

    cluster = open_started(options)
    with progress_of((), options) as progress:
        found = auditing.audit_cluster(cluster, now=datetime.now(UTC), report=progress.line)
    if options["output"] == "json":
        print_json(**auditing.audit_data(found))
    elif not options["quiet"]:
        print_table(auditing.audit_rows(found.controls), wide=options["wide"], below="remedy")
    if found.missed:
        text = f"{len(found.missed)} of {len(found.controls)} controls did not pass"
        raise UnhealthyError(f"{text}: {', '.join(check.name for check in found.missed)}", hint=found.missed[0].remedy)


@bake.command()
@cluster_options
def down(**options: Any) -> None:
    """Shut down the VMs. To start the VMs again, run `bake up`.

    \b
    Examples:
      bake down
    """
    from generator.operations.hints import command

    cluster = open_cluster(options)
    with progress_of((), options) as progress:
        engine = engines.make_engine(options, progress.line, cluster, remedy=partial(command, cluster.store, "down"))
        stopped = engine.shut_down(*(node.name for node in cluster.plan.nodes))
    show_names("stopped", stopped, options)


@bake.command()
@yes_option
@click.option("--force", is_flag=True, help="If the cluster's folder is lost, remove all clusters with the given name.")
@cluster_options
def destroy(force: bool, **options: Any) -> None:
    """Remove the cluster's VMs, disks and network, and nothing else. The baked files are kept.

    The command lists everything that it removes and asks for confirmation. Without a terminal, the command needs --yes.

    \b
    Examples:
      bake destroy
      bake destroy --name prod --yes
    """
    from generator.operations import destroy
    from generator.store.folder import Store

    def consent(found: tuple[Any, ...]) -> None:
        for each in found if not (options["quiet"] and options["yes"]) else ():
            click.echo(f"- {each}", err=True)
        question = f"Remove these VMs and disks of the cluster {options['name']!r}, with all their data?"
        confirm(question, options, [f"all data of the cluster {options['name']!r} is lost"])

    store = Store(options["out"], options["name"])
    removed = destroy.destroy(store, partial(engines.connect, options), force=force, consent=consent)
    show_names("removed", removed, options)
