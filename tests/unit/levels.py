"""The level of several changes."""

from __future__ import annotations

from collections.abc import Iterable

from generator.change.spec_changes import Change
from generator.level import Level


def highest_level(changes: Iterable[Change]) -> Level:
    """Return the level of the most expensive change. Changes without a level count as nothing."""
    return max((change.level for change in changes if change.level), key=lambda level: level.rank, default=Level.NONE)
