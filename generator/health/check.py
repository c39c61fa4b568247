"""The framework of `bake verify` and `bake audit`: findings on nodes, and checks that combine findings."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """The result of a finding or a check.

    `SKIPPED`: the check could not be made on every node. A check that does not apply to a cluster is `OK` or left out.
    """

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


_PRECEDENCE = (Result.FAILED, Result.SKIPPED, Result.WARNING, Result.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """A result on one node, and its reason. An empty `node` means the whole cluster."""

    node: str
    result: Result
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a cluster. `nodes`: the nodes on which the check is not ok."""

    name: str
    result: Result
    detail: str
    remedy: str | None = None
    nodes: tuple[str, ...] = ()


def combine(
    name: str,
    findings: Collection[Finding],
    *,
    remedy: str,
    good: str = "",
    unseen: str | None = None,
    every: Iterable[str] = ("",),
) -> Check:
    """Combine findings into a check. The check is failed if a finding is failed, else skipped, else a warning, else ok.

    `good`: the detail of a check that is ok; by default, its findings. `unseen`: the remedy of a skipped check; by
    default, `remedy`. `every`: see `group`.
    """
    results = {finding.result for finding in findings}
    result = next((each for each in _PRECEDENCE if each in results), Result.OK)
    shown = [finding for finding in findings if finding.result is result]
    if result is Result.OK:
        return Check(name=name, result=result, detail=good or group(shown, every=every))
    return Check(
        name=name,
        result=result,
        detail=group(shown, every=every),
        remedy=unseen or remedy if result is Result.SKIPPED else remedy,
        nodes=tuple(dict.fromkeys(finding.node for finding in shown if finding.node)),
    )


def group(findings: Iterable[Finding], *, every: Iterable[str] = ("",)) -> str:
    """Group findings by text: `etcd1, etcd2: text; etcd3: other text`. Omit the nodes if they are exactly `every`."""
    by_text: dict[str, list[str]] = {}
    for finding in dict.fromkeys(findings):
        by_text.setdefault(finding.text, []).append(finding.node)
    return "; ".join(
        text if set(nodes) == set(every) else f"{', '.join(nodes)}: {text}" for text, nodes in by_text.items()
    )
