"""`bake timeline`: read the recorded console phases of a cluster."""

from __future__ import annotations

from generator.layout import EVENTS
from generator.operations.baked_cluster import Cluster
from generator.report.timeline import Timeline, make_timeline, parse_records


def load_timeline(cluster: Cluster) -> Timeline:
    """Return the last boot of each node of the plan. No node is asked."""
    records = parse_records(cluster.store.read(EVENTS) or b"")
    return make_timeline(cluster.plan.name, [node.name for node in cluster.plan.nodes], records)
