"""bake is killed at a system call, or the call fails. `scripts/hostile --row cuts` tests every system call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile import cuts
from tests.hostile.forked import End
from tests.hostile.report import ROOT
from tests.hostile.syscalls import Call, environment

Point = Callable[..., cuts.Point]


def run_row(name: str, count: int) -> dict[str, Any]:
    """Run a row of `scripts/hostile` in a separate process, because the row forks, and return its result."""
    words = [sys.executable, "-m", "tests.hostile", "--row", name, "--count", str(count)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout).values()
    return dict(row)


def test_some_of_all_points_leave_the_old_or_the_new(tool: Callable[[str], str]) -> None:
    tool("strace")
    row = run_row("cuts", 19)
    assert row["trials"] > 60
    assert row["figures"]["signal=KILL"]["old"] > 6
    assert row["figures"]["error=ENOSPC"]["old"] > 3
    assert all(states["mixed"] == 0 for states in row["figures"].values())


def test_two_at_once_mix_nothing() -> None:
    assert sum(run_row("races", 6)["figures"]["last_at_work"].values()) == 6


@pytest.fixture
def point() -> Point:
    return lambda deed: cuts.Point("grown", deed, Call("write", 1, '3</x/out/etcd>, ""..., 1', failed=False))


@pytest.mark.parametrize(
    ("deed", "code", "said", "state"),
    [
        (cuts.KILL, 0, "", "new"),
        ("error=EIO", 0, "", "old"),
        ("error=EIO", 1, "Traceback\nerror: x: nothing has changed\n", "old"),
        ("error=EIO", 1, "", "old"),
        ("error=EIO", 99, "error: x: nothing has changed\n", "old"),
        ("error=EIO", 1, "error: a: nothing has changed\nerror: b: nothing has changed\n", "old"),
        ("error=EIO", 1, "error: x: nothing has changed\n", "new"),
        ("error=EIO", 1, "error: x: in place\n", "old"),
        ("error=EIO", 2, "error: x: cannot be read\n", "new"),
    ],
)
def test_what_is_told_wrong_is_noticed(point: Any, deed: str, code: int, said: str, state: str) -> None:
    assert list(cuts._told_wrong(point(deed), End(code, said), state))
