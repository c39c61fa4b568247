"""`bake console`: connect to a node's serial console."""

from __future__ import annotations

import sys
from typing import Any

import click

from generator.cli import engines
from generator.cli.common import open_cluster, reporter
from generator.cli.local.suggestions import suggest_node
from generator.cli.options import cluster_options
from generator.cli.reach import refuse_unstarted
from generator.cli.root import bake


@bake.command()
@click.argument("node", shell_complete=suggest_node)
@click.option("-f", "--follow", is_flag=True, help="Without a terminal: go on until the VM stops, or until Ctrl-C.")
@cluster_options
def console(node: str, follow: bool, **options: Any) -> None:
    """Connect to a node's serial console. Ctrl-] disconnects. Without a terminal, print the console's log.

    \b
    Examples:
      bake console etcd1
      bake console etcd1 | tail
      bake console etcd1 --follow > console.log
    """
    from generator.operations.hints import command
    from generator.operations.inside import console as consoles

    cluster = open_cluster(options)
    engine = engines.make_engine(options, reporter(options), cluster)
    up = command(cluster.store, "up", connect=options["connect"])
    refuse_unstarted(options, cluster, engine.machines())
    if sys.stdin.isatty() and sys.stdout.isatty() and not follow:
        consoles.attach(engine, node, up=up)
        return
    for data in (consoles.follow if follow else consoles.printed)(engine, node, up=up):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
