"""The commands for a running cluster: `up`, `seal`, `status`, `verify`, `audit`, `console`, `down`, `destroy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from generator.cli.common import (
    bake_agreed,
    ca_passphrase,
    cache,
    confirm,
    open_cluster,
    print_json,
    print_table,
    progress_of,
    reporter,
    show_names,
    show_verification,
)
from generator.cli.options import cluster_options, spec_options, up_options, yes_option
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.config.load import Loaded
    from generator.operations.bake import Agreed
    from generator.operations.changes import Change


@bake.command()
@spec_options
@up_options
@yes_option
def up(**options: Any) -> None:
    """Bake, boot under libvirt, wait until every member votes, and verify.

    Run it again without options to complete what is missing; nothing else changes. The firewalls of running nodes
    refuse a node that was added later until they are restarted: bake does not boot such a node, exits with code 3 and
    names the nodes to restart.

    \b
    Examples:
      bake up --nodes 3
      bake up --nodes 5 --memory 2048 --connect qemu+ssh://host/system
      bake up --config cluster.yaml --wait 300 -o json
    """
    try:
        folder, result, changes = bake_agreed(options, partial(_up, options))
    except KeyboardInterrupt:
        click.echo("Run the same command to continue, or remove the VMs: bake destroy", err=True)
        raise
    show_verification(result, options, changes=[change.data for change in changes])
    if options["output"] == "text" and not options["quiet"]:
        click.echo(f"To use the cluster: . {folder}/etcdctl.env; etcdctl member list", err=True)


def _up(options: Mapping[str, Any], loaded: Loaded, agreed: Agreed, changes: list[Change]) -> Any:
    from generator.config.defaults import node_names
    from generator.operations import up
    from generator.store.folder import Store

    store = Store(options["out"], loaded.spec.name)
    passphrase = ca_passphrase(options, loaded.spec, store)
    boot = up.Boot(
        uri=options["connect"], accel=options["accel"], wait=options["wait"], cache=options["cache"] or cache()
    )
    with progress_of(node_names(loaded.spec), options) as progress:
        result = up.up(
            loaded.spec, store, boot, now=datetime.now(UTC), progress=progress, passphrase=passphrase, agreed=agreed
        )
    return store.folder, result, changes


@bake.command()
@yes_option
@cluster_options
def seal(**options: Any) -> None:
    """Remove the bootstrap permit from the first node's ISO; `bake up` does this automatically.

    Run it as soon as the cluster runs. A first node without its disk then joins the other nodes, and never starts a
    second cluster. The ISO in the VM's drive is replaced, also while the VM runs. To undo it for a cluster that is
    lost: delete the file `sealed` in the cluster's folder, and bake again. If no member answers, the cluster may never
    have been started: the command asks, or needs --yes.

    \b
    Examples:
      bake seal
      bake seal --name prod --connect qemu+ssh://host/system
    """
    from generator.operations import up

    opened = open_cluster(options)

    def consent(doubt: str) -> None:
        confirm(f"{doubt}. Seal it?", options, [doubt])

    report = reporter(options)
    done = up.seal(opened, uri=options["connect"], now=datetime.now(UTC), report=report, consent=consent)
    for warning in done.warnings if not options["quiet"] else ():
        click.echo(f"warning: {warning}", err=True)
    if options["output"] == "json":
        print_json(**asdict(done))
    elif not options["quiet"]:
        text = f"{opened.plan.name} is sealed" + ("" if done.files or done.vm else " already")
        click.echo(f"{text}; the ISO in {done.node}'s drive was replaced" if done.vm else text)


@bake.command()
@cluster_options
def status(**options: Any) -> None:
    """Show each node's VM and etcd member, and what is left to do.

    With -o json each node has: node, vm (null without libvirt), address, reachable, member_id, role (leader, voter,
    learner, unstarted), version, db_size in bytes, raft_index, error. An unknown value is null.

    \b
    Examples:
      bake status
      bake status --name prod -o json
    """
    from generator.operations import up
    from generator.operations.verify import status_data, status_row

    seen = up.status(open_cluster(options), uri=options["connect"])
    if options["output"] == "json":
        nodes = [status_data(node, vm) for node, vm in seen.nodes]
        print_json(nodes=nodes, sealed=seen.sealed, tasks=[asdict(task) for task in seen.tasks])
    elif not options["quiet"]:
        print_table([status_row(node, vm) for node, vm in seen.nodes])
        click.echo(f"\nsealed: {'yes' if seen.sealed else 'no'}")
        print_table([{"to do": task.task, "remedy": task.remedy} for task in seen.tasks])


@bake.command()
@cluster_options
def verify(**options: Any) -> None:
    """Check the running cluster: members, health, keys, writes and reads through every member, refused clients.

    Exit code 3 if a check failed or could not be made on every node.

    \b
    Examples:
      bake verify
      bake verify -o json
    """
    from generator.operations import up

    with progress_of((), options) as progress:
        result = up.verify_cluster(open_cluster(options), now=datetime.now(UTC), report=progress.line)
    show_verification(result, options)


@bake.command()
@cluster_options
def audit(**options: Any) -> None:
    """Audit the running cluster: etcd's controls in the CIS benchmark, and TLS. Exit code 3 unless all pass.

    \b
    Examples:
      bake audit
      bake audit -o json
    """
    from generator.errors import UnhealthyError
    from generator.operations import up
    from generator.operations.audit import audit_data, audit_rows

    with progress_of((), options) as progress:
        found = up.audit(open_cluster(options), now=datetime.now(UTC), report=progress.line)
    if options["output"] == "json":
        print_json(**audit_data(found))
    elif not options["quiet"]:
        print_table(audit_rows(found.controls))
    if found.missed:
        text = f"{len(found.missed)} of {len(found.controls)} controls did not pass"
        raise UnhealthyError(f"{text}: {', '.join(one.id for one in found.missed)}", hint=found.missed[0].remedy)


@bake.command()
@click.argument("node")
@cluster_options
def console(node: str, **options: Any) -> None:
    """Connect to a node's serial console; Ctrl-] disconnects. Without a terminal, print the console's log.

    \b
    Examples:
      bake console etcd1
    """
    from generator.operations import up

    up.console(open_cluster(options), node, uri=options["connect"])


@bake.command()
@cluster_options
def down(**options: Any) -> None:
    """Shut down the VMs. `bake up` starts them again.

    \b
    Examples:
      bake down
    """
    from generator.operations import up

    with progress_of((), options) as progress:
        stopped = up.down(open_cluster(options), uri=options["connect"], progress=progress)
    show_names("stopped", stopped, options)


@bake.command()
@yes_option
@click.option("--force", is_flag=True, help="If the cluster's folder is lost: remove any cluster with that name.")
@cluster_options
def destroy(force: bool, **options: Any) -> None:
    """Remove the cluster's VMs, disks and network, and nothing else. The baked files are kept.

    The command shows what it removes, and asks; without a terminal it needs --yes.

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
        confirm(question, options, [f"the data of the cluster {options['name']!r}"])

    store = Store(options["out"], options["name"])
    removed = destroy.destroy(store, uri=options["connect"], force=force, consent=consent)
    show_names("removed", removed, options)
