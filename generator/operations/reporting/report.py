"""`bake report`: write the page."""

from __future__ import annotations

from pathlib import Path

from generator.layout import REPORT
from generator.operations.baked_cluster import Cluster
from generator.operations.reporting.output_file import write_output
from generator.progress import Report
from generator.report.page import MARK


def target_of(cluster: Cluster, file: Path | None) -> Path:
    """Return the absolute path of the page. `file`: the user's choice; default: in the cluster's folder."""
    return (file or cluster.store.folder / REPORT).absolute()


def write_report(cluster: Cluster, target: Path, page: str, *, report: Report) -> None:
    """Write the page. Hold the lock of the output folder, because a bake replaces the cluster's folder."""
    if target.is_relative_to(cluster.store.folder):
        with cluster.store.locked(report):
            write_output(target, page, MARK)
    else:
        write_output(target, page, MARK)
