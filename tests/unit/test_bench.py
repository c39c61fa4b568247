"""The functions that `scripts/bench` calls still work. Otherwise, only the next measurement would fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_fleet_is_baked(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPTS / "bench_work.py", "fleet", "6", tmp_path / "out"], check=True)
    assert len(list(tmp_path.glob("out/*/*/seed.iso"))) == 6


def test_the_figures_are_listed() -> None:
    command = [sys.executable, SCRIPTS / "bench.py", "--list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {"document", "vms", "floor"} <= {line.split()[0] for line in listed.splitlines()}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", SCRIPTS / "bench.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench", module)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_was_measured_and_by_how_many_rounds(bench: ModuleType) -> None:
    kept, text = json.loads(bench.RESULTS.read_text()), bench.PAGE.read_text()
    assert bench.page(text, kept) == text
    assert set(kept["figures"]) == set(bench.FIGURES)
    for name, result in kept["figures"].items():
        assert result["command"] == bench.command(
            name, result["rounds"], is_real_time=result["priority"] == "real time"
        )
        assert result["full_rounds"] == bench.FIGURES[name].rounds
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert f" (rounds: {result['rounds']}, default: {result['full_rounds']}) |" in row


def test_a_result_says_how_it_is_measured_again(bench: ModuleType, tmp_path: Path) -> None:
    few = bench.measure("help", 1, tmp_path)
    assert (few["rounds"], few["full_rounds"]) == (1, 15)
    assert few["command"].endswith("scripts/bench --only help --rounds 1 --write")
    assert " (rounds: 1, default: 15) |" in bench.row("help", few)
    assert bench.command("help", 15, is_real_time=False) == "scripts/bench --only help --write"
