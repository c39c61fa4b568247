"""Templates of the guest's files, and their compiled form next to bake's compiled modules."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from generator.seed import templates

PATH = PurePosixPath("/etc/motd")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a template, and an empty folder for compiled templates."""
    template = tmp_path / "guest/etc/motd.j2"
    template.parent.mkdir(parents=True)
    template.write_text("one {{ name }}\n")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(templates, "_GUEST", tmp_path / "guest")
    monkeypatch.setattr(templates, "cache_from_source", lambda _: str(tmp_path / "cache/templates.pyc"))
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    return tmp_path


def render(monkeypatch: pytest.MonkeyPatch) -> str:
    """Render the template like a new process."""
    environment = templates._environment.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr(templates, "_environment", lambda: environment)
        return templates.render(PATH, name="etcd1").decode()


def test_a_compiled_template_is_used_until_the_template_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render(monkeypatch) == "one etcd1\n"
    (compiled,) = (folder / "cache").iterdir()
    assert compiled.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as patch:
        patch.setattr("jinja2.Environment._parse", lambda *_: pytest.fail("compiled again"))
        assert render(patch) == "one etcd1\n"
    (folder / "guest/etc/motd.j2").write_text("two {{ name }}\n")
    assert render(monkeypatch) == "two etcd1\n"


def test_another_version_of_bake_compiles_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = folder / "templates.py"
    module.touch()
    monkeypatch.setattr(templates, "__file__", str(module))
    render(monkeypatch)
    module.touch()
    render(monkeypatch)
    assert len([*(folder / "cache").iterdir()]) == 2


def test_bake_runs_without_a_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cache").rmdir()
    assert render(monkeypatch) == "one etcd1\n"
    (folder / "cache").mkdir()
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    assert render(monkeypatch) == "one etcd1\n"
    assert not [*(folder / "cache").iterdir()]


@pytest.mark.parametrize("content", [b"", b"j2", b"other"])
def test_a_damaged_cache_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    render(monkeypatch)
    (compiled,) = (folder / "cache").iterdir()
    good = compiled.read_bytes()
    compiled.write_bytes(content)
    assert render(monkeypatch) == "one etcd1\n"
    assert compiled.read_bytes() == good
