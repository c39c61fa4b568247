"""The health checks of `bake verify`. Each check evaluates data from generator/etcd and has no side effects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from generator.etcd.answers import ClientKind, Observation
from generator.health.check import Check, Command, Finding, Result, bake_command, combine, with_commands
from generator.health.members import (
    all_keys,
    auth_enforced,
    endpoint_health,
    equal_data,
    member_list,
    no_alarms,
    one_cluster,
    planned_members,
    write_and_read,
)
from generator.health.ports import only_peers, peer_firewall, refused, server_certificates
from generator.plan import ClusterPlan

__all__ = ["Check", "Result", "all_keys", "as_rows", "check_cluster"]


def check_cluster(
    plan: ClusterPlan, seen: Observation, *, now: datetime, sealed: bool, command: Command = bake_command
) -> tuple[Check, ...]:
    """Run all checks of `bake verify`. `sealed`: whether `bake seal` has removed the bootstrap permit.

    `command`: see `with_commands`.
    """
    checks = (
        member_list(seen),
        endpoint_health(seen),
        all_keys(seen),
        planned_members(plan, seen),
        one_cluster(seen),
        no_alarms(seen),
        write_and_read(seen),
        equal_data(seen),
        *(refused(plan, seen, kind) for kind in (ClientKind.NO_CERTIFICATE, ClientKind.FOREIGN_CA, ClientKind.NO_TLS)),
        only_peers(plan, seen),
        *((auth_enforced(seen),) if plan.spec.auth.enabled else ()),
        peer_firewall(plan, seen),
        server_certificates(plan, seen, now=now),
        bootstrap_permit(plan, sealed=sealed),
    )
    return with_commands(checks, command)


def bootstrap_permit(plan: ClusterPlan, *, sealed: bool) -> Check:
    """Check that the first node's ISO in the cluster's folder lacks the bootstrap permit.

    With the bootstrap permit, a node can start a new cluster.
    """
    first = next(node.name for node in plan.nodes if node.bootstrap)
    text = "its seed still has the bootstrap permit: with an empty disk, this node would start a second cluster"
    findings = [] if sealed else [Finding(first, Result.FAILED, text)]
    return combine("bootstrap permit", findings, ok_detail="removed", remedy="{bake seal}")


def as_rows(found: Iterable[Check]) -> list[dict[str, str]]:
    """Return one table row for each check: column name → value."""
    return [{"check": check.name, "result": str(check.result), "detail": check.detail} for check in found]
