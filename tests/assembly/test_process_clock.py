"""The shift of a process's clock: etcd, as a static Go program, and programs of C and Python see the new time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.assembly.change_lab import ChangeLab, most_nodes
from tests.assembly.miniature import PATIENCE, Tools
from tests.assembly.process_clock import Clocks
from tests.assembly.process_lab import ProcessMachines

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="network namespaces need root"),
]
YEAR = 365 * 86400
CODE = """
import ctypes, sys, time
of_c = ctypes.CDLL(None).time
of_c.restype = ctypes.c_long
for _ in sys.stdin:
    print(int(time.time()), of_c(None), time.monotonic(), flush=True)
"""


def test_a_process_gets_another_time_and_other_processes_do_not() -> None:
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdin
        assert it.stdout

        def ask() -> list[float]:
            it.stdin.write("\n")
            it.stdin.flush()
            return [float(word) for word in it.stdout.readline().split()]

        clocks, first = Clocks(), ask()
        for shift in (20 * YEAR, -2 * YEAR, 0):
            clocks.shift(it.pid, shift)
            wall, time_of_c, monotonic = ask()
            assert wall - time.time() == pytest.approx(shift, abs=60)
            assert time_of_c - wall == pytest.approx(0, abs=60)
            assert 0 <= monotonic - first[2] < 600
        it.stdin.close()
    clocks.shift(it.pid, YEAR)  # an ended process is no error


def test_a_node_gets_another_time(bin_dir: Path, tmp_path: Path) -> None:
    lab = ProcessMachines(most_nodes(), tmp_path / "out/etcd", tools=Tools(bin_dir=bin_dir), work=tmp_path / "nodes")
    with ChangeLab.begun(lab, tmp_path) as cluster:
        year = time.gmtime().tm_year + 20
        assert f'"ts":"{year}-' not in lab.log("etcd1")
        lab.set_clock("etcd1", 20 * YEAR + 86400 * 10)
        deadline = time.monotonic() + 10 * PATIENCE
        while not re.search(rf'"ts":"{year}-.*certificate has expired', lab.log("etcd1")):
            assert time.monotonic() < deadline, lab.log("etcd1")[-2000:]
            cluster.bake("status")
        lab.set_clock("etcd1", 0)
        cluster.change("apply", "--nodes", "1")
