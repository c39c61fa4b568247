"""`bake report`: collect what the page shows, from the nodes and from the cluster's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from generator import __version__
from generator.config.fields import value_text
from generator.config.hosts import EngineKind
from generator.engine import MachineStatus
from generator.errors import BakeError, UnhealthyError
from generator.health import Check, Result
from generator.health.check import Finding, group
from generator.operations import audit as auditing
from generator.operations import certs, verify
from generator.operations.baked_cluster import Cluster
from generator.operations.maintenance.alarms import ActiveAlarm, list_alarms
from generator.operations.reporting.last_bake import LastBake, edited_files, load_last_bake
from generator.operations.reporting.summary import tiles, verdict
from generator.operations.reporting.timeline import load_timeline
from generator.operations.running.delivery import outdated
from generator.operations.status import MemberRole, NodeStatus, Overview, status, status_row
from generator.plan import ClusterPlan
from generator.progress import Report
from generator.report.content import (
    AlarmRow,
    CertificateRow,
    ChangeRow,
    Content,
    HostBox,
    Mood,
    NodeCard,
    Part,
    ResultRow,
    VersionRow,
)

T = TypeVar("T")
_MOODS = {
    Result.OK: Mood.OK, Result.WARNING: Mood.WARNING, Result.FAILED: Mood.FAILED, Result.SKIPPED: Mood.UNKNOWN,
}  # fmt: skip
_SILENT = "No node answers, so bake could not find out."


@dataclass(kw_only=True)
class Found:
    """What bake found out about a cluster. A value is None if bake could not find it out.

    `notices`: why. `images`: the versions in an image, by the image's digest. `outdated`: see `delivery.outdated`.
    """

    overview: Overview
    machines: Mapping[str, MachineStatus] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    verification: verify.Verification | None = None
    audit: auditing.Audit | None = None
    alarms: tuple[ActiveAlarm, ...] | None = None
    certificates: tuple[certs.Entry, ...] = ()
    outdated: Mapping[str, bool | None] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @property
    def answers(self) -> bool:
        """Whether at least one node's etcd answers."""
        return any(node.reachable for node, _ in self.overview.nodes)

    @property
    def is_healthy(self) -> bool:
        return self.verification is not None and self.verification.healthy


def query(
    cluster: Cluster,
    machines: Callable[[Report], Mapping[str, MachineStatus]],
    images: Mapping[str, Mapping[str, str]],
    *,
    now: datetime,
    report: Report,
) -> Found:
    """Query the nodes and the engine. Without an answer, return what the folder has, and a notice.

    `machines`: returns what the engine's `machines` returns, or nothing without an engine. It may report why.
    """
    notices: list[str] = []

    def attempt(what: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except BakeError as error:
            notices.append(f"{what}: {error.message}")
            return None

    def note(line: str) -> None:
        notices.append(f"the VMs: {line.removeprefix('warning: ')}")

    seen = attempt("the VMs", lambda: machines(note)) or {}
    found = Found(overview=status(cluster, seen, now=now), machines=seen, images=images, notices=notices)
    found.certificates = attempt("the certificates", lambda: certs.entries(cluster, now=now)) or ()
    if not found.answers:
        causes = group(Finding(node.name, Result.SKIPPED, str(node.error)) for node, _ in found.overview.nodes)
        notices.insert(0, f"no node answers ({causes}); this report has only what is in the cluster's folder")
        return found
    plan = cluster.plan
    found.verification = attempt("the checks", lambda: verify.verify_cluster(cluster, now=now, report=report))
    found.audit = attempt("the audit", lambda: auditing.audit_cluster(cluster, now=now, report=report))
    found.alarms = attempt("the alarms", lambda: list_alarms(cluster))
    found.outdated = attempt("the served certificates", lambda: outdated(cluster)) or {}
    if silent := [node.name for node, _ in found.overview.nodes if not node.reachable]:
        notices.append(f"{', '.join(silent)} of {len(plan.nodes)} nodes: etcd does not answer")
    return found


def content(cluster: Cluster, found: Found, *, now: datetime) -> Content:
    """Return the content of the page."""
    checks = _part(found, found.verification, lambda one: map(_check_row, one.checks))
    controls = _part(found, found.audit, lambda one: map(_control_row, one.controls))
    certificates = tuple(_certificate_row(entry, found.outdated) for entry in found.certificates)
    mood, sentence = verdict(found.overview, found.verification, certificates)
    last = load_last_bake(cluster.store)
    return Content(
        cluster=cluster.plan.name, made=now, bake_version=__version__, engine=_engine(cluster.plan),
        mood=mood, verdict=sentence, notices=tuple(found.notices),
        tiles=tiles(found.overview, found.verification, found.audit, found.alarms, certificates),
        hosts=tuple(_hosts(cluster.plan, found)),
        tasks=tuple((task.task, task.remedy) for task in found.overview.tasks),
        timeline=load_timeline(cluster), certificates=certificates, checks=checks, controls=controls,
        versions=tuple(_version_row(node, found) for node, _ in found.overview.nodes),
        alarms=tuple(_alarm_row(alarm) for alarm in found.alarms or ()),
        no_alarms=_SILENT if found.alarms is None else "etcd has no alarm.",
        last_bake=_last_bake(last), changes=tuple(_change_rows(last)),
        edited=tuple(_grouped(edited_files(cluster.store))),
    )  # fmt: skip


def refuse_unhealthy(found: Found, hint: str) -> None:
    """Raise UnhealthyError if no node answers, or if a check did not pass."""
    if not found.answers:
        raise UnhealthyError("no node answers; the report has only what is in the cluster's folder", hint=hint)
    if not found.is_healthy:
        missed = found.verification.missed if found.verification else ()
        names = ", ".join(check.name for check in missed) or "the checks could not run"
        raise UnhealthyError(f"the cluster is not healthy: {names}", hint=hint)


def _part(found: Found, source: T | None, rows: Callable[[T], Iterable[ResultRow]]) -> Part:
    if source is not None:
        return Part(rows=tuple(rows(source)))
    return Part(unknown="bake could not run them; see the top of this report." if found.answers else _SILENT)


def _check_row(check: Check) -> ResultRow:
    return ResultRow(
        name=check.name, title="", result=str(check.result), mood=_MOODS[check.result], detail=check.detail,
        remedy=check.remedy or "",
    )  # fmt: skip


def _control_row(check: Check) -> ResultRow:
    row = auditing.audit_rows([check])[0]
    return ResultRow(
        name=row["id"], title=row["title"], result=row["result"], mood=_MOODS[check.result], detail=row["evidence"],
        remedy=row["remedy"],
    )  # fmt: skip


def _certificate_row(entry: certs.Entry, outdated: Mapping[str, bool | None]) -> CertificateRow:
    is_outdated = outdated.get(entry.owner) if entry.role == "etcd-server" else None
    served = "" if is_outdated is None else "no" if is_outdated else "yes"
    mood = Mood.FAILED if entry.days_left < 0 else Mood.WARNING if entry.is_near else Mood.OK
    return CertificateRow(
        owner=entry.owner, role=str(entry.role), names=" ".join(entry.facts.names),
        issuer=entry.facts.issuer.replace(",", ", "), not_after=f"{entry.facts.not_after:%Y-%m-%d}",
        days_left=entry.days_left, share=min(max(entry.days_left / max(entry.days, 1), 0.0), 1.0),
        served=served, mood=mood,
    )  # fmt: skip


def _hosts(plan: ClusterPlan, found: Found) -> Iterator[HostBox]:
    """Yield the hosts with their nodes. Incus chooses the host of a node; else the plan has it."""
    domains = {host.name: host.domain for host in plan.spec.hosts}
    seen = {node.name: (node, vm) for node, vm in found.overview.nodes}
    boxes: dict[str, HostBox] = {}
    for node in plan.nodes:
        machine = found.machines.get(node.name)
        name = machine.host if machine and machine.exists and machine.host else node.host
        box = boxes.setdefault(name, HostBox(name=name, domain=domains.get(name, ""), nodes=()))
        boxes[name] = replace(box, nodes=(*box.nodes, _card(*seen[node.name], is_known=found.answers)))
    yield from boxes.values()


def _card(node: NodeStatus, vm: str | None, *, is_known: bool) -> NodeCard:
    row = status_row(node, vm)
    facts = {
        "Address": node.address, "VM": vm, "etcd": node.version, "Member": node.member_id,
        "Database": row["db"] if node.db_size is not None else None,
        "Raft index": row["raft index"] if node.raft_index is not None else None,
    }  # fmt: skip
    if not is_known:
        mood = Mood.UNKNOWN
    elif not node.reachable:
        mood = Mood.FAILED
    else:
        mood = Mood.OK if node.role in (MemberRole.LEADER, MemberRole.VOTER) and not node.error else Mood.WARNING
    role = str(node.role or "unknown") if is_known else "unknown"
    return NodeCard(
        name=node.name, role=role, mood=mood, error=node.error or "",
        facts={title: value for title, value in facts.items() if value},
    )  # fmt: skip


def _version_row(node: NodeStatus, found: Found) -> VersionRow:
    machine = found.machines.get(node.name)
    image, built = (machine.image, machine.built) if machine else ("", "")
    parts = ", ".join(f"{name} {version}" for name, version in found.images.get(image, {}).items())
    return VersionRow(node=node.name, etcd=node.version or "", image=image, built=built[:10], parts=parts)


def _alarm_row(alarm: ActiveAlarm) -> AlarmRow:
    return AlarmRow(node=alarm.node, alarm=alarm.alarm, meaning=alarm.meaning, remedy=alarm.remedy)


def _engine(plan: ClusterPlan) -> str:
    engine = "containers of Incus" if plan.spec.engine is EngineKind.INCUS else "VMs"
    many = f"{len(plan.nodes)} node{'s' if len(plan.nodes) > 1 else ''}"
    hosts = f" on {len(plan.spec.hosts)} hosts" if plan.spec.hosts else ""
    return f"{many} ({engine}{hosts}) in the network {plan.network.subnet}."


def _last_bake(last: LastBake | None) -> str:
    if last is None:
        return "The folder has no record of a bake. The next bake that changes the folder writes one."
    when = f"{last.time[:10]} {last.time[11:16]} UTC"
    return f"bake {last.version} {'made' if last.is_first else 'changed'} the cluster's folder on {when}."


def _change_rows(last: LastBake | None) -> Iterator[ChangeRow]:
    """Yield a row for each change. Files with the same sign in the same folder share a row."""
    files = []
    for change in last.changes if last else ():
        if change["kind"] == "file":
            files.append((change["change"], change["name"]))
            continue
        kind = "" if change["kind"] == "field" else change["kind"]
        yield ChangeRow(
            sign=change["change"], what=" ".join(filter(None, (kind, change["name"], str(change.get("part", ""))))),
            values=_values(change), cost=str(change.get("level", "")),
        )  # fmt: skip
    yield from _grouped(files)


def _values(change: Mapping[str, Any]) -> str:
    return " → ".join(value_text(change[name]) for name in ("old", "new") if change.get(name) is not None)


def _grouped(files: Iterable[tuple[str, str]]) -> Iterator[ChangeRow]:
    folders: dict[tuple[str, str], list[str]] = {}
    for sign, path in files:
        folder, _, name = path.rpartition("/")
        folders.setdefault((sign, folder), []).append(name)
    for (sign, folder), names in folders.items():
        what = f"{'files' if len(names) > 1 else 'file'} in {folder}/" if folder else "files of the cluster"
        yield ChangeRow(sign=sign, what=what, values=", ".join(names), cost="")
