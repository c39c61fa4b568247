"""Test bake with bad input, failing disks, kills and concurrent runs, and measure the results.

The exit code is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.hostile import accepted, cuts, fuzz, races, refusals
from tests.hostile.report import RESULTS, ROOT, tell, write


@dataclass(frozen=True)
class Row:
    """One measurement. `full` is the COUNT of a full run."""

    what: str
    run: Callable[[int, Path], dict[str, Any]]
    full: int


ROWS = {
    "refusals": Row("every kind of bad input in a separate process, COUNT rounds", refusals.measure, 3),
    "specs": Row("COUNT accepted cluster files, checked by every reading program", accepted.measure, 20_000),
    "fuzz": Row("coverage-guided fuzzing of the loader for COUNT seconds", fuzz.measure, 600),
    "cuts": Row("a kill, a full disk or a bad disk at every COUNTth system call", cuts.measure, 1),
    "races": Row("two concurrent bakes, COUNT times", races.measure, 200),
}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/hostile", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, metavar="NAME", help=f"one of {', '.join(ROWS)}")
    parser.add_argument("--count", type=int, help="COUNT of the row (default: the number for a full run)")
    parser.add_argument("--write", action="store_true", help=f"store the results in {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--list", action="store_true", help="list the rows")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.list:
        print("\n".join(f"{name:10} {row.what} (full: {row.full})" for name, row in ROWS.items()))
        return 0
    rows = {}
    for name in options.row or ROWS:
        began = time.monotonic()
        # The folder is not below /tmp, because a row checks that bake writes nothing to /tmp.
        (ROOT / "build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="hostile-", dir=ROOT / "build", ignore_cleanup_errors=True) as folder:
            found = ROWS[name].run(options.count or ROWS[name].full, Path(folder))
        rows[name] = found | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "seconds": round(time.monotonic() - began)}
        tell(f"{name}: {found['trials']} trials, {len(found['failures'])} failed, {rows[name]['seconds']} s")
        if options.write:  # after each row
            write({name: rows[name]})
    print(json.dumps(rows, indent=1, ensure_ascii=False))
    return 1 if any(row["failures"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
