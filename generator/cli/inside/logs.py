"""`bake logs`: show the nodes' journals."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.common import open_cluster, print_json, reporter
from generator.cli.local.suggestions import suggest_node
from generator.cli.options import cluster_options, option
from generator.cli.reach import refuse_unstarted
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.inside.logs import Entry

_ERROR = 3  # entries of this priority and below are errors (syslog(3))


@bake.command()
@click.argument("nodes", metavar="[NODE]...", nargs=-1, shell_complete=suggest_node)
@option("--unit", "-u", default="", help="Show only entries of a systemd unit, such as etcd or etcd-promote.")
@option("--since", metavar="WHEN", help="Show only entries since then: 10m, 2h, 1d or 2026-11-30T04:00.")
@option("--lines", "-n", type=click.IntRange(min=0), help="Show only the last entries.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries until Ctrl-C.")
@cluster_options
def logs(
    nodes: tuple[str, ...], unit: str, since: str | None, lines: int | None, follow: bool, **options: Any
) -> None:
    """Show the journals of the nodes, without a login, also of nodes that have crashed.

    Each VM copies its journal to its host through a virtio port. The entries of all nodes are in order of time. A VM
    that an older version of bake made has no such copy until it starts again with `bake down` and `bake up`.

    With -o json the output has the key entries. Each entry has the keys time, node, unit (null for the kernel),
    identifier, pid, priority (0 to 7, as in syslog) and message. With --follow, each line is an entry.

    \b
    Examples:
      bake logs
      bake logs etcd2 --unit etcd --since 10m
      bake logs --unit 'etcd*' --follow
      bake logs etcd1 --lines 50 -o json
    """
    from generator.operations.inside import logs as reading

    cluster = open_cluster(options)
    names = _chosen(nodes, [node.name for node in cluster.plan.nodes])
    begin = reading.parse_since(since, now=datetime.now(UTC)) if since else None
    engine = engines.make_engine(options, reporter(options), cluster)
    refuse_unstarted(options, cluster, engine.machines())
    batches = reading.entries(engine, names, reading.Wanted(unit=unit, since=begin, lines=lines))
    if follow:
        for entry in reading.follow(batches):
            _print(entry, options)
        return
    found = next(batches)
    if options["output"] == "json":
        print_json(entries=[entry.data for entry in found])
        return
    for entry in found:
        _print(entry, options)
    if not found:
        reporter(options)("no entries")


def _chosen(wanted: tuple[str, ...], planned: list[str]) -> list[str]:
    from generator.errors import InputError, Problem

    rule = f"is not one of {', '.join(planned)}"
    if unknown := [Problem("NODE", f"{name!r} {rule}") for name in wanted if name not in planned]:
        raise InputError(unknown)
    return list(dict.fromkeys(wanted)) or planned


def _is_coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org


def _print(entry: Entry, options: Any) -> None:
    if options["output"] == "json":
        click.echo(json.dumps(entry.data))
    else:
        click.secho(entry.text, fg="red" if entry.priority <= _ERROR and _is_coloured() else None)
