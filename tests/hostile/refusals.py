"""How long a refusal takes, as a user waits for it: a process of its own for every kind of the catalogue."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.hostile.catalogue import KINDS, Kind
from tests.hostile.report import ROOT, tell

BAKE = [sys.executable, "-m", "generator.cli"]


def refuse(kind: Kind, scratch: Path) -> tuple[int, float, float]:
    """Exit code, seconds by the clock and seconds of CPU, in a working folder that is then thrown away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **kind.environment}
    given = {name: value for name, value in environment.items() if value is not None}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.chdir(folder)
        kind.lay_out()
        began = time.monotonic()
        words = [*BAKE, *kind.words]
        process = subprocess.Popen(words, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        took = time.monotonic() - began
        os.chdir(ROOT)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, took, used.ru_utime + used.ru_stime


def measure(count: int, scratch: Path) -> dict[str, Any]:
    """`count` rounds through the catalogue. The clock of the machine cannot be turned, so those kinds are left out."""
    kinds = {name: kind for name, kind in KINDS.items() if kind.code == 2 and kind.clock is None}
    failures, walls, cpus = [], [], []
    for number in range(count):
        for name, kind in kinds.items():
            code, wall, cpu = refuse(kind, scratch)
            walls.append(wall)
            cpus.append(cpu)
            if code != kind.code:
                failures.append(f"{name}: exit code {code}")
        tell(f"refusals: round {number + 1} of {count}, median {statistics.median(walls):.3f} s")
    ranked = statistics.quantiles(walls, n=100)
    return {
        "trials": len(walls),
        "failures": failures,
        "figures": {
            "kinds": len(kinds),
            "median_s": round(statistics.median(walls), 3),
            "p99_s": round(ranked[98], 3),
            "cpu_median_s": round(statistics.median(cpus), 3),
        },
    }
