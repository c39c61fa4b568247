"""A row of the table of levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from generator.config.spec import ClusterSpec
from generator.level import Level

Applies = Callable[[ClusterSpec, ClusterSpec], bool]  # takes the old and the new spec


def _always(_old: ClusterSpec, _new: ClusterSpec) -> bool:
    return True


class FieldLevel(NamedTuple):
    """A row of the table.

    `field`: the name of a field; a name that ends in `.*` stands for all fields of a section.
    `case`: the changes to which the row applies. If `case` is empty, the row applies to every other change.
    `how`: how the nodes apply the change. For a refused change, the way to reach the same result.
    `why`: for a refused change, the reason why no running node can apply it.
    `is_written`: for a refused change, whether `bake` writes the new seeds anyway, because `how` needs them.
    `note`: the operator's task before nodes apply the change, or after a change that no node applies.
    `applies`: whether the row applies to a change from an old to a new spec.
    """

    field: str
    level: Level
    how: str
    case: str = ""
    why: str = ""
    is_written: bool = False
    note: str = ""
    applies: Applies = _always

    def covers(self, name: str) -> bool:
        """Return whether the row is about the field `name`."""
        return name == self.field or (self.field.endswith(".*") and name.startswith(self.field[:-1]))
