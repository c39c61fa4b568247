"""The results of the rows, stored as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reference" / "input.json"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(rows: dict[str, Any]) -> None:
    """Add new results to the stored results."""
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    document = {"format_version": "1.0", "rows": dict(sorted({**kept, **rows}.items()))}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
