"""The commands that maintain a running cluster: `bake snapshot`, `bake defrag`, `bake alarm`, `bake move-leader`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from generator.cli.common import (
    changing,
    confirm,
    print_json,
    progress_of,
    refuse_misplaced,
)
from generator.cli.local.suggestions import suggest_node
from generator.cli.options import cluster_options, option, yes_option
from generator.cli.output.table import print_table
from generator.cli.reach import open_started
from generator.cli.root import bake


@bake.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@option("--keep", type=int, metavar="N", help="Keep the newest N snapshots of the cluster in the folder of FILE.")
@option("--node", metavar="NODE", help="Save the data of this node, even if the cluster has lost its quorum.")
@cluster_options
def snapshot(file: Path | None, keep: int | None, node: str | None, **options: Any) -> None:
    """Save all data of the running cluster in FILE, and a description in FILE.json.

    The snapshot has every write that etcd acknowledged before the command started. The command asks a follower, checks
    the SHA-256 and the size of the data, and never overwrites a file. An interrupted command leaves no file behind.
    FILE has all values of all keys, so only you can read it (mode 0600).

    If FILE is a folder, the name of the file has the cluster's name and the time. The default folder is
    OUT/NAME.snapshots. With --keep, the command then removes the cluster's oldest snapshots, and no other files.

    If most members are lost, use --node with the name of a survivor. The snapshot then lacks the writes that only the
    lost members had, and FILE.json says so (quorum: false). See `bake restore`.

    With -o json the output has the keys file, snapshot and removed. The key snapshot has the content of FILE.json:
    cluster, cluster_id, etcd_cluster_id, member, member_id, revision, etcd_version, time, size, sha256 and quorum.

    \b
    Examples:
      bake snapshot
      bake snapshot --keep 7 --quiet
      bake snapshot /backup/etcd.db -o json
      bake snapshot --node etcd2
    """
    from generator.operations.maintenance import snapshot

    cluster = open_started(options)
    with progress_of((), options) as progress:
        done = snapshot.take(cluster, file, keep=keep, now=datetime.now(UTC), report=progress.line, node=node)
    record, removed = done.record, [str(path) for path in done.removed]
    if options["output"] == "json":
        print_json(file=str(done.file), snapshot=asdict(record), removed=removed)
    elif not options["quiet"]:
        click.echo(done.file)
        text = f"revision {record.revision}, {record.size} bytes from {record.member}, sha256 {record.sha256}"
        click.echo(text, err=True)
        for path in removed:
            click.echo(f"removed {path}", err=True)


@bake.command()
@click.option("--force", is_flag=True, help="Defragment all members, even if little space is free.")
@click.option("--compact", is_flag=True, help="First delete the history of all keys, so that more space is free.")
@cluster_options
def defrag(force: bool, compact: bool, **options: Any) -> None:
    """Give free space in etcd's databases back to the disks, one member at a time.

    etcd reuses the space of deleted data, but its database never shrinks. A member that rewrites its database serves
    no request meanwhile. The command rewrites a database only if at least 100 MiB and 45 % of the database are free, if
    the database uses more than 80 % of its quota, or if the alarm NOSPACE is active.

    Before each member, the command checks that all members are healthy. The leader is the last member, and another
    member leads before its database is rewritten. The command stops at the first member that does not become healthy
    again.

    With -o json the output has the keys compacted (a revision, or null) and members. Each member has the keys node,
    leader, before, in_use, after (bytes, or null), reason and seconds (or null).

    \b
    Examples:
      bake defrag
      bake defrag --compact
      bake defrag --force -o json
    """
    from generator.operations.maintenance import defrag

    cluster = open_started(options)
    with changing(cluster, "bake defrag"), progress_of((), options) as progress:
        compacted = defrag.compact(cluster, report=progress.line) if compact else None
        found = defrag.defragment(cluster, force=force, report=progress.line)
    if options["output"] == "json":
        print_json(compacted=compacted, members=[asdict(one) for one in found])
    elif not options["quiet"]:
        print_table([defrag.defrag_row(one) for one in found])


@bake.group(invoke_without_command=True)
@cluster_options
@click.pass_context
def alarm(ctx: click.Context, /, **options: Any) -> None:
    """List etcd's alarms with the remedies. Exit with code 3 if there is an alarm.

    With -o json the output has the key alarms. Each alarm has the keys node, member_id, alarm (NOSPACE or CORRUPT),
    meaning and remedy.

    \b
    Examples:
      bake alarm
      bake alarm -o json
      bake alarm disarm      clear the alarms after the remedy
    """
    if ctx.invoked_subcommand is not None:
        refuse_misplaced(ctx)
        return
    from generator.errors import UnhealthyError
    from generator.operations.maintenance.alarms import list_alarms

    found = list_alarms(open_started(options))
    if options["output"] == "json":
        print_json(alarms=[asdict(one) for one in found])
    elif not options["quiet"]:
        print_table([{"node": one.node, "alarm": one.alarm, "meaning": one.meaning} for one in found])
        if not found:
            click.echo("no alarms")
    if found:
        raise UnhealthyError(f"active alarms: {', '.join(sorted({one.alarm for one in found}))}", hint=found[0].remedy)


@alarm.command()
@yes_option
@cluster_options
def disarm(**options: Any) -> None:
    """Clear etcd's alarms.

    NOSPACE: the command first checks that every member's database is smaller than 90 % of its quota. Otherwise etcd
    would raise the alarm again at the next write.

    CORRUPT: the data of the members differs. Without the alarm, clients can read wrong data. The command asks for
    confirmation. Without a terminal, the command needs --yes.

    With -o json the output has the key disarmed, with the same keys as in `bake alarm`.

    \b
    Examples:
      bake alarm disarm
      bake alarm disarm --yes
    """
    from generator.operations.maintenance import alarms

    def consent(loss: str) -> None:
        confirm(f"{loss}. Clear the alarm?", options, [loss])

    found = alarms.disarm(open_started(options), consent=consent)
    if options["output"] == "json":
        print_json(disarmed=[asdict(one) for one in found])
    elif not options["quiet"]:
        for one in found:
            click.echo(f"{one.node}: cleared {one.alarm}")
        if not found:
            click.echo("no alarms")


@bake.command("move-leader")
@click.argument("node", required=False, shell_complete=suggest_node)
@cluster_options
def move_leader(node: str | None, **options: Any) -> None:
    """Make NODE the leader, and wait until it leads. Without NODE, choose the voter with the newest data.

    During the change, etcd accepts no writes for a fraction of a second, and a client may have to repeat a write. NODE
    must be a healthy voter with all recent data.

    With -o json the output has the keys before and after (names of nodes) and seconds.

    \b
    Examples:
      bake move-leader
      bake move-leader etcd2
    """
    from generator.operations.maintenance import leader

    cluster = open_started(options)
    with progress_of((), options) as progress:
        move = leader.move_leader(cluster, node, report=progress.line)
    if options["output"] == "json":
        print_json(**asdict(move))
    elif not options["quiet"]:
        same = move.before == move.after
        click.echo(f"{move.after} is the leader already" if same else f"{move.after} leads after {move.seconds:.2f} s")
