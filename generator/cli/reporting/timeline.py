"""`bake timeline`: draw the last boot of each node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from generator.cli.common import open_cluster, print_json, reporter
from generator.cli.options import folder_options
from generator.cli.root import bake


@bake.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@folder_options
def timeline(file: Path | None, **options: Any) -> None:
    """Draw the last boot of each node as an SVG chart: the phases, and how long each took.

    Without FILE, print the chart. The command replaces only a FILE that it wrote before. It reads the console records
    in the cluster's folder, and asks no node. `bake up`, `bake apply` and other commands store these records while they
    wait for nodes, with the time at which they read them. Boots at the same time have a common time axis.

    With -o json the output has the keys cluster, nodes, silent (nodes without a record) and file (or null). Each node
    has the keys node, begin (in seconds since 1970), offset (of the node's start, in seconds), seconds (from the start
    to the last record), settled, failed and phases. Each phase has the keys phase, detail, begin and end (in seconds
    since the node's start; the last phase has no end).

    \b
    Examples:
      bake timeline boot.svg
      bake timeline --name prod > prod.svg
      bake timeline -o json
    """
    from generator.operations.reporting.output_file import write_output
    from generator.operations.reporting.timeline import load_timeline
    from generator.report.chart import MARK, draw

    found = load_timeline(open_cluster(options))
    if file is not None:
        write_output(file.absolute(), draw(found), MARK)
    if not found.boots:
        reporter(options)("warning: the folder has no console record; commands such as bake up write them")
    if options["output"] == "json":
        print_json(cluster=found.cluster, nodes=found.data, silent=list(found.silent), file=file and str(file))
    elif file is None:
        click.echo(draw(found), nl=False)
    elif not options["quiet"]:
        click.echo(file)
