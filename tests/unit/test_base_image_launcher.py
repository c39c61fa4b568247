"""The program with which the base image starts cloud-init."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

LAUNCHER = Path(__file__).parents[2] / "generator/image/recipe/tuned/usr/local/lib/base-image/cloud_init.py"


def test_only_the_owner_can_read_a_file_until_its_mode_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("launcher", LAUNCHER)
    assert spec is not None
    assert spec.loader is not None
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    seen: dict[str, int] = {}

    def write_file(filename: str, content: bytes, mode: int = 0o644, **_: object) -> None:
        path = Path(filename)
        path.write_bytes(content)
        seen.update(file=path.stat().st_mode & 0o777, folder=path.parent.stat().st_mode & 0o777)
        path.chmod(mode)

    def ensure_dir(path: str, **_: object) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    before = os.umask(0o022)
    try:
        launcher.private_first(SimpleNamespace(write_file=write_file, ensure_dir=ensure_dir))(
            str(tmp_path / "new/secret"), b"key", mode=0o640, ensure_dir_exists=True
        )
        assert os.umask(0o022) == 0o022, "the umask of the process is unchanged"
    finally:
        os.umask(before)
    assert seen == {"file": 0o600, "folder": 0o755}
    assert (tmp_path / "new/secret").stat().st_mode & 0o777 == 0o640
