"""A health check's result, and how findings are combined into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """`SKIPPED`: could not be made for every node. A check that does not apply to a cluster is `OK` or left out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One health check. `nodes`: those that keep it from being ok."""

    name: str
    result: Result
    detail: str
    remedy: str | None = None
    nodes: tuple[str, ...] = ()


Findings = Sequence[tuple[str, str]]  # (node, what is wrong)


def check(
    name: str,
    good: str,
    *,
    failed: Findings = (),
    unknown: Findings = (),
    warning: Findings = (),
    remedy: str,
    unseen: str | None = None,
) -> Check:
    """Combine findings into a check. Precedence: failed, skipped, warning; a check is ok only if made for every node.

    `good`: the detail of a check that is ok. `unseen`: the remedy of a skipped check, if it differs from `remedy`.
    """
    for result, findings, hint in (
        (Result.FAILED, failed, remedy),
        (Result.SKIPPED, unknown, unseen or remedy),
        (Result.WARNING, warning, remedy),
    ):
        if findings:
            nodes = tuple(dict.fromkeys(node for node, _ in findings if node))
            return Check(name=name, result=result, detail=join(findings), remedy=hint, nodes=nodes)
    return Check(name=name, result=Result.OK, detail=good)


def join(findings: Findings) -> str:
    """Group findings by text: `etcd1, etcd2: text; etcd3: other text`."""
    by_text: dict[str, list[str]] = {}
    for node, text in findings:
        by_text.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" if any(nodes) else text for text, nodes in by_text.items())
