"""One thing that was checked, and how findings become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """`SKIPPED`: could not be judged for every node. A check that has no meaning for a cluster is `OK`, or not made."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was checked. `nodes` are the ones that keep it from being ok."""

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
    """Failed beats skipped beats warning: no check is ok that was not made everywhere. `unseen`: the remedy where it
    was not made, if another one."""
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
    """`etcd1, etcd2: what both suffer; etcd3: what it suffers`."""
    by_text: dict[str, list[str]] = {}
    for node, text in findings:
        by_text.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" if any(nodes) else text for text, nodes in by_text.items())
