"""`bake` without an option about the cluster: it bakes an existing cluster again, and makes no new cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from generator.operations.hints import DEFAULT_NAME

_NO_INPUT = {"out", "output", "quiet", "verbose", "yes"}  # options that say nothing about the cluster


def refuse_without_cluster(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Raise an error if no option says anything about the cluster, and the default cluster does not exist.

    The error names the clusters in the output folder. Without a cluster, print the help first.
    """
    if not _is_silent(ctx) or _may_have_cluster(options["out"]):
        return
    from generator.operations.baked_cluster import no_cluster
    from generator.store.existing_cluster import cluster_names
    from generator.store.folder import Store

    if cluster_names(options["out"]):
        raise no_cluster(Store(options["out"], DEFAULT_NAME))
    if not options["quiet"]:
        click.echo(ctx.get_help(), err=True)
    text = "no option about the cluster, and no cluster to bake again"
    raise click.UsageError(f"{text}; begin with `bake init` or `bake --nodes 3`")


def _is_silent(ctx: click.Context) -> bool:
    """Return whether neither an option nor an environment variable says anything about the cluster."""
    sources = {ctx.get_parameter_source(str(each.name)) for each in ctx.command.params if each.name not in _NO_INPUT}
    return not sources & {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}


def _may_have_cluster(out: Path) -> bool:
    try:
        return (out / DEFAULT_NAME).exists()
    except OSError:
        return True  # the bake reports why it cannot read the folder
