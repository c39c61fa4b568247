"""A certificate in the output of `bake certs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generator.operations.certs import Entry

BAR = 10  # length of the bar in characters


def as_data(entry: Entry) -> dict[str, Any]:
    """Return a certificate for `-o json`."""
    facts = entry.facts
    return {
        "owner": entry.owner, "role": str(entry.role), "names": list(facts.names),
        "subject": facts.subject, "issuer": facts.issuer, "serial": facts.serial,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "days_left": entry.days_left,
    }  # fmt: skip


def as_row(entry: Entry, outdated: Mapping[str, bool | None], *, bars: bool) -> dict[str, str]:
    """Return a certificate's row.

    `outdated`: whether a node serves another certificate, or None without an answer. `bars`: show a bar next to the
    number of days, for people; programs read the number more easily without a bar.
    """
    served = {True: "no", False: "yes", None: "-"}[outdated.get(entry.owner)] if entry.role == "etcd-server" else ""
    return {
        "owner": entry.owner,
        "role": str(entry.role),
        "days left": f"{_bar(entry.days_left, entry.days)} {entry.days_left}" if bars else str(entry.days_left),
        "names": " ".join(entry.facts.names),
        "issuer": entry.facts.issuer,
        "serial": entry.facts.serial[:16],
        "served": served,
    }


def _bar(left: int, whole: int) -> str:
    full = max(0, min(BAR, round(BAR * left / max(whole, 1))))
    return "█" * full + "░" * (BAR - full)
