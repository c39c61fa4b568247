"""A few trials of each row of the fault injection harness. docs/explanation/reliability.md lists the rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.etcd


def test_clusters_that_are_broken_while_they_assemble_end_up_whole_once_with_nothing_lost(
    bin_dir: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "tests.chaos", "--gate", "--seed", "1", "--out", str(result)]
    environment = {**os.environ, "BAKE_ETCD_BIN": str(bin_dir), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    print(done.stderr)
    assert done.returncode == 0, "the lines above have the failed trial, and the command that repeats it"
    rows = json.loads(result.read_text())["rows"]
    assert all(row["holds"] for row in rows.values())
    assert {"kills", "crash-points", "replies", "planted"} <= rows.keys()
