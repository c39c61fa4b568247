"""Grafana's dashboard for a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator

from generator.clients.alerts import quantile
from generator.plan import ClusterPlan

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 8, 7  # of a panel; Grafana's grid has 24 columns


def dashboard(plan: ClusterPlan) -> str:
    """Return a dashboard as JSON, for Grafana's import."""
    panels = [
        {
            "id": index + 1,
            "title": title,
            "type": "timeseries",
            "datasource": _SOURCE,
            "gridPos": {
                "x": index % 3 * _WIDTH, "y": index // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}
                for place, (legend, expression) in enumerate(queries.items())
            ],
        }
        for index, (title, unit, queries) in enumerate(_panels(plan))
    ]  # fmt: skip
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}
    content = {
        "uid": f"bake-etcd-{plan.name}"[:40],
        "title": f"etcd {plan.name}",
        "tags": ["etcd"],
        "schemaVersion": 38,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(content, indent=1) + "\n"


def _panels(plan: ClusterPlan) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield each panel as its title, its unit in Grafana, and its queries by legend."""
    here, node = f'{{cluster="{plan.name}"}}', "{{node}}"
    yield "Members that answer", "short", {"members": f"sum(up{here})"}
    yield "Has a leader", "short", {node: f"etcd_server_has_leader{here}"}
    yield "Leader changes", "short", {node: f"changes(etcd_server_is_leader{here}[1h])"}
    yield "Database and quota", "bytes", {
        f"{node} size": f"etcd_mvcc_db_total_size_in_bytes{here}",
        f"{node} in use": f"etcd_mvcc_db_total_size_in_use_in_bytes{here}",
        "quota": f"min(etcd_server_quota_backend_bytes{here})",
    }  # fmt: skip
    yield "Sync of the log, 99th percentile", "s", {node: quantile("etcd_disk_wal_fsync_duration_seconds", plan)}
    yield "Commit of the database, 99th percentile", "s", {
        node: quantile("etcd_disk_backend_commit_duration_seconds", plan)
    }  # fmt: skip
    yield "Round trip to other members, 99th percentile", "s", {
        f"{node} to {{{{To}}}}": quantile("etcd_network_peer_round_trip_time_seconds", plan, "To")
    }  # fmt: skip
    yield "Committed proposals", "ops", {node: f"rate(etcd_server_proposals_committed_total{here}[5m])"}
    yield "Failed and pending proposals", "short", {
        f"{node} failed": f"rate(etcd_server_proposals_failed_total{here}[5m])",
        f"{node} pending": f"etcd_server_proposals_pending{here}",
    }  # fmt: skip
    yield "Requests", "ops", {node: f"sum by (node) (rate(grpc_server_started_total{here}[5m]))"}
    yield "Client traffic", "Bps", {
        f"{node} received": f"rate(etcd_network_client_grpc_received_bytes_total{here}[5m])",
        f"{node} sent": f"rate(etcd_network_client_grpc_sent_bytes_total{here}[5m])",
    }  # fmt: skip
    yield "Memory", "bytes", {node: f"process_resident_memory_bytes{here}"}
