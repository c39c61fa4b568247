"""What `scripts/bench` runs still runs: nothing else would notice before somebody measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_fleet_is_baked(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPTS / "bench_work.py", "fleet", "6", tmp_path / "out"], check=True)
    assert len(list(tmp_path.glob("out/*/*/seed.iso"))) == 6


def test_the_figures_are_listed() -> None:
    command = [sys.executable, SCRIPTS / "bench.py", "--list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {"document", "vms", "floor"} <= {line.split()[0] for line in listed.splitlines()}
