"""With a wrong clock, certificates expire too early. tests/hostile/catalogue.py tests the clocks that bake refuses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from generator import RELEASED
from generator.config.spec import ClusterSpec
from generator.operations.bake import bake
from generator.store.folder import Store


def test_the_date_of_the_release_is_kept_up_to_date(tool: Callable[[str], str]) -> None:
    """bake refuses dates before RELEASED, so a recent RELEASED limits how slow an accepted clock can be."""
    words = [tool("git"), "-C", str(Path(__file__).parent), "log", "-1", "--format=%cI"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip("not in a git repository")
    committed = datetime.fromisoformat(shown.stdout.strip())
    assert RELEASED <= committed < RELEASED + timedelta(days=90), "set RELEASED in generator/__init__.py"


def test_a_certificate_from_the_future_is_replaced_with_a_warning(now: datetime, tmp_path: Path) -> None:
    """The clock is slow now or was fast before. bake cannot know which, so it prints a warning."""
    spec, store, lines = ClusterSpec(nodes=1), Store(tmp_path, "etcd"), list[str]()
    bake(spec, store, now=now, report=lines.append)
    bake(spec, store, now=now + timedelta(days=100), report=lines.append, renew=["etcd1"])
    assert lines == []
    before = (store.folder / "etcd1/user-data").read_bytes()
    bake(spec, store, now=now + timedelta(days=1), report=lines.append)
    (line,) = lines
    assert line.startswith(f"warning: this machine's clock says {now + timedelta(days=1):%Y-%m-%d} 03:04 UTC")
    assert f"is valid only from {now + timedelta(days=99):%Y-%m-%d}" in line
    assert (store.folder / "etcd1/user-data").read_bytes() != before
