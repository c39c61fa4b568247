"""Cluster files that bake accepts, by the thousand: `unit/test_accepted` with more examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hostile.report import ROOT


def measure(count: int, scratch: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'tests'}"]
    words.append("tests/unit/test_accepted.py")
    environment = {**os.environ, "BAKE_EXAMPLES": str(count)}
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    # The test itself counts what it tried.
    return {"trials": count, "failures": [done.stdout[-4000:]] if done.returncode else []}
