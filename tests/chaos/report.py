"""The harness's results as JSON, and the table of docs/explanation/reliability.md."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "reliability.md"
RESULTS = ROOT / "docs" / "explanation" / "reliability.json"
BEGIN, END = "<!-- rows: made by scripts/chaos --write -->", "<!-- /rows -->"


def versions(bin_dir: Path) -> dict[str, str]:
    """Return the versions of etcd and etcdctl from the first line of their output."""
    commands = {"etcd": ("etcd", "--version"), "etcdctl": ("etcdctl", "version")}
    found = {}
    for name, (program, word) in commands.items():
        done = subprocess.run([bin_dir / program, word], capture_output=True, text=True, check=True)
        found[name] = done.stdout.splitlines()[0].split()[-1]
    return found


def document(seed: int, bin_dir: Path, rows: dict[str, Any]) -> dict[str, Any]:
    return {"format_version": "1.0", "seed": seed, "versions": versions(bin_dir), "rows": rows}


def text(seed: int, bin_dir: Path, rows: dict[str, Any]) -> str:
    return json.dumps(document(seed, bin_dir, rows), indent=1, ensure_ascii=False) + "\n"


def bound(trials: int) -> str:
    """Return the upper bound of the failure rate after n trials without a failure, at 95 % (rule of three)."""
    return f"< {300 / trials:.2g} %" if trials >= 3 else "–"


def line(name: str, row: dict[str, Any]) -> str:
    failed = len(row["failures"])
    times = row["converge_s"]
    took = f"{times['p50']:g} / {times['p99']:g} / {times['max']:g} s" if times else "–"
    verdict = f"0 of {row['trials']}" if not failed else f"**{failed} of {row['trials']}**"
    rule = bound(row["trials"]) if not failed else "–"
    return f"| `{name}` | {row['what']} | {verdict} | {rule} | {took} | seed {row['seed']}, {row['date']} |"


def table(rows: dict[str, Any], order: list[str]) -> str:
    head = ["| row | fault | failed | upper bound | time to recover: p50 / p99 / max | run |", "| --- " * 6 + "|"]
    return "\n".join(head + [line(name, rows[name]) for name in order if name in rows])


def write(seed: int, bin_dir: Path, rows: dict[str, Any]) -> None:
    """Add new results to the recorded results, and write the table of all results into the page.

    The words are those of `ROWS`, also for the results of earlier runs.
    """
    from tests.chaos.rows import ROWS

    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    merged = {
        name: {**row, "what": ROWS[name].what, "goal": ROWS[name].goal}
        for name, row in {**kept, **rows}.items() if name in ROWS
    }  # fmt: skip
    RESULTS.write_text(text(seed, bin_dir, merged))
    facts = " and ".join(f"{name} {version}" for name, version in versions(bin_dir).items())
    put(PAGE, BEGIN, END, f"The rows ran with {facts}.\n\n{table(merged, list(ROWS))}")


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Replace the text between two marks of a page."""
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
