"""`bake console`: connect to a node's serial console."""

from __future__ import annotations

import sys
from typing import Any

import click

from generator.cli import engines
from generator.cli.common import open_cluster, reporter
from generator.cli.local.suggestions import suggest_node
from generator.cli.options import cluster_options
from generator.cli.root import bake


@bake.command()
@click.argument("node", shell_complete=suggest_node)
@cluster_options
def console(node: str, **options: Any) -> None:
    """Connect to a node's serial console. Ctrl-] disconnects. Without a terminal, print the console's log.

    \b
    Examples:
      bake console etcd1
    """
    from generator.operations.inside import console as consoles

    engine = engines.make_engine(options, reporter(options), open_cluster(options))
    if sys.stdin.isatty() and sys.stdout.isatty():
        consoles.attach(engine, node)
        return
    for data in consoles.follow(engine, node):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
