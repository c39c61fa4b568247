"""`bake report`: write a page about a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.common import image_cache, print_json, progress_of
from generator.cli.options import cluster_options
from generator.cli.reach import open_running
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.baked_cluster import Cluster


@bake.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@cluster_options
def report(file: Path | None, **options: Any) -> None:
    """Write an HTML page about the cluster: topology, boot timeline, certificates, checks, audit, versions, changes.

    The page is one FILE, by default report.html in the cluster's folder. It loads nothing, runs no script and has no
    private key. It does name the cluster's weak points, so only you can read the file (mode 0600). The command replaces
    only a FILE that it wrote before.

    The command runs the checks of `bake verify`, which write and read keys, and of `bake audit`. If no node answers, it
    writes the page from the cluster's folder, and the page says so at its top. The exit code is 3 if no node answers,
    or if a check of `bake verify` fails or cannot run; the page is written before.

    With -o json the output has the keys file, cluster, answers (whether a node answers), healthy (or null) and notices
    (what the page lacks).

    \b
    Examples:
      bake report
      bake report /srv/www/etcd.html --name prod
      bake report -o json
    """
    from generator.operations.hints import command
    from generator.operations.reporting import collect
    from generator.operations.reporting.output_file import check_target
    from generator.operations.reporting.report import target_of, write_report
    from generator.report.page import MARK, render

    cluster: Cluster = open_running(options)
    target = target_of(cluster, file)
    check_target(target, MARK)
    with progress_of((), options) as progress:
        found = collect.query(
            cluster, lambda note: engines.machines_if_possible(options, note, cluster), _image_versions(options),
            now=datetime.now(UTC), report=progress.line,
        )  # fmt: skip
        write_report(
            cluster, target, render(collect.content(cluster, found, now=datetime.now(UTC))), report=progress.line
        )
    if options["output"] == "json":
        healthy = found.is_healthy if found.answers else None
        print_json(
            file=str(target), cluster=cluster.plan.name, answers=found.answers, healthy=healthy, notices=found.notices
        )
    elif not options["quiet"]:
        click.echo(target)
    collect.refuse_unhealthy(found, hint=f"see {target}, or run {command(cluster.store, 'status')}")


def _image_versions(options: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return the versions in each image of the cache, by the image's digest."""
    from generator.image.base import cached_images

    return {image.digest: image.versions for image in cached_images(image_cache(options))}
