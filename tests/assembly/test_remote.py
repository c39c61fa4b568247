"""Tests of the socket through which bake changes the lab's nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.assembly.remote import Remote, served


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int) -> int:
        if number < 0:
            raise ValueError(number)
        self.value += number
        return self.value


def test_a_call_changes_the_served_object(tmp_path: Path) -> None:
    counter = Counter()
    with served(counter, tmp_path / "socket"):
        assert Remote(tmp_path / "socket").add(2) == 2
        assert Remote(tmp_path / "socket").add(3) == 5

    assert counter.value == 5


def test_an_error_reaches_the_caller_and_the_next_call_is_answered(tmp_path: Path) -> None:
    with served(Counter(), tmp_path / "socket"):
        remote = Remote(tmp_path / "socket")
        with pytest.raises(ValueError, match="-1"):
            remote.add(-1)
        assert remote.add(1) == 1


def test_a_killed_caller_leaves_the_object_to_the_next(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from tests.assembly.remote import Remote\n"
    code += "Remote(pathlib.Path(sys.argv[1])).add(1); os.kill(os.getpid(), 9)"
    counter = Counter()
    with served(counter, tmp_path / "socket"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "socket")], check=False)
        assert (done.returncode, counter.value) == (-9, 1)
        assert Remote(tmp_path / "socket").add(1) == 2
