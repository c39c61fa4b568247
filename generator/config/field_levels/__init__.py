"""What the change of each field costs the nodes of an existing cluster.

`ROWS` is the only table. The command `bake check`, the page docs/reference/levels.md and the tests use it.
"""

from __future__ import annotations

from generator.config.field_levels.row import FieldLevel
from generator.config.field_levels.table import ROWS
from generator.config.fields import FieldPath
from generator.config.spec import ClusterSpec


def field_level(path: FieldPath, old: ClusterSpec, new: ClusterSpec) -> FieldLevel:
    """Return the row for the change of a field. Raises KeyError for a field without a row."""
    name = ".".join(map(str, path))
    for row in ROWS:
        if row.covers(name) and row.applies(old, new):
            return row
    raise KeyError(name)
