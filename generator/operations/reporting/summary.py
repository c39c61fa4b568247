"""The verdict and the figures at the top of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from generator.health import Result
from generator.operations.audit import Audit
from generator.operations.maintenance.alarms import ActiveAlarm
from generator.operations.status import MemberRole, NodeStatus, Overview
from generator.operations.verify import Verification
from generator.report.content import CertificateRow, Mood, Tile

_UNKNOWN = "not known"


def verdict(
    overview: Overview, verification: Verification | None, certificates: Sequence[CertificateRow]
) -> tuple[Mood, str]:
    """Return how good the cluster's state is, and a sentence about it."""
    nodes = [node for node, _ in overview.nodes]
    if not any(node.reachable for node in nodes):
        return Mood.UNKNOWN, f"None of {len(nodes)} nodes answers."
    voters, leader = _voters(nodes), _leader(nodes)
    text = f"{len(voters)} of {len(nodes)} nodes vote, {f'leader {leader}' if leader else 'no leader'}"
    if verification is None:
        return Mood.FAILED, f"{text}; the checks could not run."
    if not verification.healthy:
        return Mood.FAILED, f"{text}; {_not_ok(verification, most=3)}."
    if any(check.result is Result.WARNING for check in verification.checks) or _worst(certificates) is not Mood.OK:
        return Mood.WARNING, f"{text}; no check failed."
    return Mood.OK, f"{text}; all {len(verification.checks)} checks passed."


def _voters(nodes: Sequence[NodeStatus]) -> list[NodeStatus]:
    """Return the voters that answer."""
    return [node for node in nodes if node.reachable and node.role in (MemberRole.LEADER, MemberRole.VOTER)]


def _leader(nodes: Sequence[NodeStatus]) -> str:
    return next((node.name for node in nodes if node.role is MemberRole.LEADER), "")


def _worst(certificates: Sequence[CertificateRow]) -> Mood:
    found = {row.mood for row in certificates}
    return next((mood for mood in (Mood.FAILED, Mood.WARNING) if mood in found), Mood.OK)


def tiles(
    overview: Overview,
    verification: Verification | None,
    audit: Audit | None,
    alarms: Sequence[ActiveAlarm] | None,
    certificates: Sequence[CertificateRow],
) -> tuple[Tile, ...]:
    """Return the figures at the top of the page."""
    nodes = [node for node, _ in overview.nodes]
    return (*_members(nodes), _expiry(certificates), _checks(verification), _controls(audit), _alarms(alarms))


def _members(nodes: Sequence[NodeStatus]) -> Iterator[Tile]:
    """Yield the number of voters, and how many of them may fail."""
    if not any(node.reachable for node in nodes):
        yield Tile(title="Voters", figure=_UNKNOWN, text="no node answers", mood=Mood.UNKNOWN)
        yield Tile(title="May fail", figure=_UNKNOWN, text="no node answers", mood=Mood.UNKNOWN)
        return
    alive, all_voters = len(_voters(nodes)), [node for node in nodes if node.role in _VOTING]
    leader = _leader(nodes)
    yield Tile(
        title="Voters", figure=f"{alive} of {len(nodes)}", text=f"leader {leader}" if leader else "no leader",
        mood=Mood.OK if alive == len(nodes) and leader else Mood.FAILED,
    )  # fmt: skip
    if not leader:  # the members that answer may not know the newest voters
        yield Tile(title="May fail", figure=_UNKNOWN, text="no leader", mood=Mood.FAILED)
        return
    quorum = len(all_voters) // 2 + 1
    spare = alive - quorum
    figure = f"{max(spare, 0)} node{'' if spare == 1 else 's'}"
    text = f"{quorum} of {len(all_voters)} voters are the quorum"
    yield Tile(title="May fail", figure=figure, text=text, mood=_spare_mood(spare))


_VOTING = (MemberRole.LEADER, MemberRole.VOTER)


def _spare_mood(spare: int) -> Mood:
    return Mood.FAILED if spare < 0 else Mood.WARNING if spare == 0 else Mood.OK


def _expiry(certificates: Sequence[CertificateRow]) -> Tile:
    if not certificates:
        return Tile(title="First expiry", figure=_UNKNOWN, text="bake could not read them", mood=Mood.UNKNOWN)
    first = min(certificates, key=lambda row: row.days_left)
    text = f"{first.not_after}: {first.owner}, {first.role}"
    return Tile(title="First expiry", figure=f"{first.days_left} days", text=text, mood=_worst(certificates))


def _checks(found: Verification | None) -> Tile:
    if found is None:
        return Tile(title="Checks", figure=_UNKNOWN, text="bake verify did not run", mood=Mood.UNKNOWN)
    passed = sum(check.result in (Result.OK, Result.WARNING) for check in found.checks)
    mood = Mood.OK if found.healthy else Mood.FAILED
    text = "passed" if found.healthy else _not_ok(found, most=1)
    return Tile(title="Checks", figure=f"{passed} of {len(found.checks)}", text=text, mood=mood)


def _not_ok(found: Verification, *, most: int) -> str:
    """Return a text that names the first checks that did not pass."""
    names = [check.name for check in found.missed]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"not ok: {', '.join(names[:most])}{more}"


def _controls(found: Audit | None) -> Tile:
    if found is None:
        return Tile(title="Audit", figure=_UNKNOWN, text="bake audit did not run", mood=Mood.UNKNOWN)
    passed = len(found.controls) - len(found.missed)
    failed = any(check.result is Result.FAILED for check in found.missed)
    mood = Mood.FAILED if failed else Mood.WARNING if found.missed else Mood.OK
    text = "controls passed"
    return Tile(title="Audit", figure=f"{passed} of {len(found.controls)}", text=text, mood=mood)


def _alarms(alarms: Sequence[ActiveAlarm] | None) -> Tile:
    if alarms is None:
        return Tile(title="Alarms", figure=_UNKNOWN, text="bake could not read them", mood=Mood.UNKNOWN)
    text = ", ".join(dict.fromkeys(alarm.alarm for alarm in alarms)) or "etcd has no alarm"
    figure = str(len(alarms)) if alarms else "none"
    return Tile(title="Alarms", figure=figure, text=text, mood=Mood.FAILED if alarms else Mood.OK)
