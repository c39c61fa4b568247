"""Prometheus' alert rules for a cluster.

The expressions use the labels `cluster` and `node`, which the scrape job in the module `prometheus` sets. etcd has no
metric for the expiry of certificates or for alarms, so there is no rule for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from generator.plan import ClusterPlan


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert rule. `expression`: PromQL. `hold`: for how long the expression must hold, such as `5m`."""

    name: str
    expression: str
    hold: str
    severity: str
    summary: str
    remedy: str


def alert_rules(plan: ClusterPlan) -> dict[str, Any]:
    """Return the content of a rule file."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "remedy": alert.remedy},
        }
        for alert in alerts(plan)
    ]
    return {"groups": [{"name": f"etcd-{plan.name}", "rules": rules}]}


def alerts(plan: ClusterPlan) -> Iterator[Alert]:
    """Yield the alerts of a cluster."""
    here = f'{{cluster="{plan.name}"}}'
    quorum = len(plan.nodes) // 2 + 1
    yield Alert(
        name="EtcdMemberDown", expression=f"up{here} == 0", hold="3m", severity="warning",
        summary="{{ $labels.node }} does not answer Prometheus", remedy="run bake status and bake logs",
    )  # fmt: skip
    yield Alert(
        name="EtcdNoQuorum", expression=f"sum by (cluster) (up{here}) < {quorum}", hold="1m", severity="critical",
        summary=f"fewer than {quorum} of {len(plan.nodes)} members answer, so etcd accepts no writes",
        remedy="start the stopped nodes; if they are lost, run bake restore",
    )  # fmt: skip
    yield Alert(
        name="EtcdNoLeader", expression=f"etcd_server_has_leader{here} == 0", hold="1m", severity="critical",
        summary="{{ $labels.node }} has no leader", remedy="run bake verify",
    )  # fmt: skip
    yield Alert(
        name="EtcdManyLeaderChanges",
        expression=f"max by (cluster) (increase(etcd_server_leader_changes_seen_total{here}[15m])) >= 4",
        hold="5m", severity="warning", summary="the leader changed four times or more in 15 minutes",
        remedy="look for slow disks and a slow network",
    )  # fmt: skip
    yield Alert(
        name="EtcdStaysLearner", expression=f"etcd_server_is_learner{here} == 1", hold="30m", severity="warning",
        summary="{{ $labels.node }} has no vote yet", remedy="run bake console {{ $labels.node }}",
    )  # fmt: skip
    size, quota = f"etcd_mvcc_db_total_size_in_bytes{here}", f"etcd_server_quota_backend_bytes{here}"
    yield Alert(
        name="EtcdDatabaseNearQuota", expression=f"{size} / {quota} > 0.8", hold="10m", severity="critical",
        summary="the database of {{ $labels.node }} has more than 80 % of its quota; at 100 %, etcd refuses writes",
        remedy="run bake defrag, or raise etcd.options.quota-backend-bytes",
    )  # fmt: skip
    used = f"etcd_mvcc_db_total_size_in_use_in_bytes{here}"
    yield Alert(
        name="EtcdDatabaseFragmented", expression=f"{used} / {size} < 0.5 and {size} > 104857600", hold="1h",
        severity="warning", summary="less than half of the database of {{ $labels.node }} is in use",
        remedy="run bake defrag",
    )  # fmt: skip
    for name, metric, limit, what in (
        ("EtcdSlowSync", "etcd_disk_wal_fsync_duration_seconds", 0.5, "a sync of the log"),
        ("EtcdSlowCommit", "etcd_disk_backend_commit_duration_seconds", 0.25, "a commit of the database"),
    ):
        yield Alert(
            name=name, expression=f"{quantile(metric, plan)} > {limit}", hold="10m", severity="warning",
            summary=f"1 of 100 times, {what} takes more than {limit} s on {{{{ $labels.node }}}}",
            remedy="use a faster disk, or move other load away from it",
        )  # fmt: skip
    yield Alert(
        name="EtcdSlowPeer",
        expression=f"{quantile('etcd_network_peer_round_trip_time_seconds', plan, 'To')} > 0.15", hold="10m",
        severity="warning", summary="the round trip from {{ $labels.node }} to the member {{ $labels.To }} is slow",
        remedy="look for a slow network, or raise etcd.options.heartbeat-interval",
    )  # fmt: skip
    yield Alert(
        name="EtcdProposalsFail", expression=f"rate(etcd_server_proposals_failed_total{here}[15m]) > 0.05",
        hold="15m", severity="warning", summary="{{ $labels.node }} cannot complete all writes",
        remedy="run bake verify",
    )  # fmt: skip


def quantile(metric: str, plan: ClusterPlan, *labels: str) -> str:
    """Return the expression for the 99th percentile of a histogram in the last 5 minutes, by node and `labels`."""
    by = ", ".join(("le", "cluster", "node", *labels))
    return f'histogram_quantile(0.99, sum by ({by}) (rate({metric}_bucket{{cluster="{plan.name}"}}[5m])))'
