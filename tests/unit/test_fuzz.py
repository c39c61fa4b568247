"""The fuzzer's initial inputs and a short run. `scripts/hostile --row fuzz` is the long run."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.hostile import fuzz

MODULES = {name: importlib.import_module(f"generator.{module}") for name, module in fuzz.LOADER.items()}


def test_the_initial_inputs_are_accepted_or_refused(tmp_path: Path) -> None:
    fuzz.seeds(tmp_path / "seeds")
    accepted = 0
    for path in (tmp_path / "seeds").iterdir():
        try:
            fuzz.check(str(path), MODULES)
        except MODULES["errors"].InputError:
            continue
        accepted += 1
    assert accepted >= 8  # the profiles and the harmless files of the catalogue


def test_the_dictionary_has_the_names_of_the_fields(tmp_path: Path) -> None:
    fuzz.words(tmp_path / "words")
    assert {'"nodes"', '"clientCidrs"', '"mac"'} <= set((tmp_path / "words").read_text().split())


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    large = b"x" * (fuzz.MEMORY << 20)  # the runner's own memory is not the fuzzer's
    found = fuzz.measure(5, tmp_path)
    del large
    assert found["failures"] == []
    assert found["trials"] > 100
    assert found["figures"]["coverage"][1] > 300  # lines of code that the fuzzer reaches
