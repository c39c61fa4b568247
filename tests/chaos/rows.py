"""The list of rows, the cheap ones first."""

from __future__ import annotations

from tests.chaos import assembling, disks, disturbances, hooks, nodes, operations, planted, strangers
from tests.chaos.trial import Row

ROWS: dict[str, Row] = {
    **assembling.ROWS,
    **hooks.ROWS,
    **disks.ROWS,
    **strangers.ROWS,
    **planted.ROWS,
    **operations.ROWS,
    **disturbances.ROWS,
    **nodes.ROWS,
}
