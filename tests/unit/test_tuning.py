"""`scripts/tuning` can still remove each part. Otherwise, only the next measurement would fail."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from generator.image.build import RECIPE

SCRIPTS = Path(__file__).parents[2] / "scripts"
TUNED = RECIPE / "tuned"  # files of the recipe, at their paths in the image


@pytest.fixture(scope="module")
def tuning() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("tuning", SCRIPTS / "tuning.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["tuning"] = module
    spec.loader.exec_module(module)
    return module


def test_each_part_that_is_a_file_of_the_recipe_can_be_removed(tuning: ModuleType, tmp_path: Path) -> None:
    removed = []
    for name, part in tuning.PARTS.items():
        root = tmp_path / name
        shutil.copytree(TUNED, root)
        try:
            if part.undo:
                part.undo(root)
        except FileNotFoundError:  # a script of the recipe makes this part's files
            continue
        removed += [name] if part.undo else []
        assert part.undo is None or differs(TUNED, root)
    assert {"udev-trigger", "modules", "requests", "jsonschema", "libyaml"} <= set(removed)


def differs(old: Path, new: Path) -> bool:
    before, after = ({path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
                     for top in (old, new))
    return before != after

