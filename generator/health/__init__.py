"""What a healthy cluster looks like: pure judgements on what `host.observe` saw, one named check each."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from generator.etcd.answers import Guest, Observation
from generator.health.check import Check, Result, check
from generator.health.members import (
    all_keys,
    endpoint_health,
    equal_data,
    member_list,
    no_alarms,
    one_cluster,
    planned_members,
    users_alone,
    write_and_read,
)
from generator.health.ports import only_peers, peer_firewall, refused, server_certificates
from generator.plan import ClusterPlan

__all__ = ["Check", "Result", "all_keys", "as_rows", "judge"]


def judge(plan: ClusterPlan, seen: Observation, *, now: datetime, sealed: bool) -> tuple[Check, ...]:
    """Every check; the first three are the document's. `sealed`: no seed has the right to start a cluster any more."""
    return (
        member_list(seen),
        endpoint_health(seen),
        all_keys(seen),
        planned_members(plan, seen),
        one_cluster(seen),
        no_alarms(seen),
        write_and_read(seen),
        equal_data(seen),
        *(refused(plan, seen, guest) for guest in (Guest.NOBODY, Guest.FOREIGN, Guest.PLAIN)),
        only_peers(plan, seen),
        *((users_alone(seen),) if plan.spec.auth.enabled else ()),
        peer_firewall(plan, seen),
        server_certificates(plan, seen, now=now),
        bootstrap_right(plan, sealed=sealed),
    )


def bootstrap_right(plan: ClusterPlan, *, sealed: bool) -> Check:
    """A fact of the operator's files: no node can tell what will be in its drive at its next boot."""
    first = next(node.name for node in plan.nodes if node.bootstrap)
    text = "may start another cluster if it loses its disk: its seed still holds the right to (bake seal withdraws it)"
    failed = [] if sealed else [(first, text)]
    return check("bootstrap right", "withdrawn", failed=failed, remedy="bake seal")


def as_rows(found: Iterable[Check]) -> list[dict[str, str]]:
    """For a table."""
    return [{"check": check.name, "result": str(check.result), "detail": check.detail} for check in found]
