"""One command at a time changes a running cluster, and the second command learns who has the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from generator.errors import BakeError
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock

HOLD = """
import sys, time
from pathlib import Path
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock
with operation_lock(Store(Path(sys.argv[1]), "etcd"), "bake apply"):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_second_command_learns_who_has_the_lock(tmp_path: Path) -> None:
    store = Store(tmp_path, "etcd")
    with operation_lock(store, "bake apply"), pytest.raises(BakeError) as error, operation_lock(store, "bake up"):
        pass
    assert f"`bake apply` (process {os.getpid()}" in str(error.value)
    assert "hint: wait until that command has ended" in str(error.value)


def test_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        with operation_lock(Store(tmp_path, "etcd"), "bake apply"):
            assert [path.name for path in tmp_path.iterdir()] == [".etcd.operation"]
    assert list(tmp_path.iterdir()) == []


def test_clusters_do_not_share_a_lock(tmp_path: Path) -> None:
    with operation_lock(Store(tmp_path, "a"), "bake apply"), operation_lock(Store(tmp_path, "b"), "bake apply"):
        pass


def test_a_killed_command_keeps_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(BakeError), operation_lock(Store(tmp_path, "etcd"), "bake apply"):
            pass
        holder.send_signal(signal.SIGKILL)
    with operation_lock(Store(tmp_path, "etcd"), "bake apply"):
        pass
