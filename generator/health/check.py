"""Types for `bake verify` and `bake audit`: a finding is the result on one node, and a check combines findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class Result(StrEnum):
    """The result of a finding or a check.

    `SKIPPED` means that bake could not check every node. A check that does not apply to a cluster is `OK` or omitted.
    """

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


Command = Callable[[str], str]  # the words of a bake command → the whole command for one cluster
_COMMAND = re.compile(r"\{bake ?([^}]*)\}")
_PRECEDENCE = (Result.FAILED, Result.SKIPPED, Result.WARNING, Result.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check on one node, and the reason for the result. An empty `node` means the whole cluster."""

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


def bake_command(words: str) -> str:
    """Return the bake command with `words` for a cluster with the default name and folder."""
    return f"bake {words}".strip()


def with_commands(checks: Iterable[Check], command: Command) -> tuple[Check, ...]:
    """Return the checks with whole commands in their remedies: `{bake status}` becomes `command("status")`."""
    return tuple(
        replace(check, remedy=check.remedy and _COMMAND.sub(lambda found: command(found[1]), check.remedy))
        for check in checks
    )


def combine(
    name: str,
    findings: Collection[Finding],
    *,
    remedy: str,
    ok_detail: str = "",
    skipped_remedy: str | None = None,
    all_nodes: Iterable[str] = ("",),
) -> Check:
    """Combine findings into a check that has the worst result of the findings: `FAILED`, `SKIPPED`, `WARNING` or `OK`.

    `ok_detail`: the text of a check that is `OK`. By default, the text consists of the findings' texts.
    `skipped_remedy`: the remedy of a check that is `SKIPPED`. If it is None, `remedy` is the remedy.
    `all_nodes`: see `group`.
    """
    results = {finding.result for finding in findings}
    result = next((each for each in _PRECEDENCE if each in results), Result.OK)
    shown = [finding for finding in findings if finding.result is result]
    if result is Result.OK:
        return Check(name=name, result=result, detail=ok_detail or group(shown, all_nodes=all_nodes))
    return Check(
        name=name,
        result=result,
        detail=group(shown, all_nodes=all_nodes),
        remedy=skipped_remedy or remedy if result is Result.SKIPPED else remedy,
        nodes=tuple(dict.fromkeys(finding.node for finding in shown if finding.node)),
    )


def group(findings: Iterable[Finding], *, all_nodes: Iterable[str] = ("",)) -> str:
    """Group findings by text, as in `etcd1, etcd2: text; etcd3: other text`.

    Omit the nodes' names if all nodes have the same text.
    """
    by_text: dict[str, list[str]] = {}
    for finding in dict.fromkeys(findings):
        by_text.setdefault(finding.text, []).append(finding.node)
    return "; ".join(
        text if set(nodes) == set(all_nodes) else f"{', '.join(nodes)}: {text}" for text, nodes in by_text.items()
    )
