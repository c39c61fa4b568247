"""The commands that messages suggest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from generator.operations.hints import command
from generator.store.folder import Store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("etcd", "out", "bake status"),
        ("prod", "out", "bake status --name prod"),
        ("etcd", "my out", "bake status --out '{}/my out'"),
    ],
)
def test_a_command_names_the_cluster_if_it_is_not_the_default(
    name: str, out: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BAKE_COMMAND", raising=False)
    assert command(Store(Path(out), name), "status") == words.format(tmp_path)


def test_a_command_begins_like_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKE_COMMAND", "scripts/bake")
    assert command(Store(Path("out"), "etcd"), "up") == "scripts/bake up"


def test_the_script_tells_bake_its_name(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAKE_")}
    done = subprocess.run(
        ["scripts/bake", "--nodes", "1", "--out", tmp_path / "out"],
        cwd=ROOT, env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "scripts/bake seal" in done.stdout + done.stderr
