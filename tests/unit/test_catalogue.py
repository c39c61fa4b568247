"""The catalogue of bad input: bake gives the declared answer to each kind, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.catalogue import KINDS, Kind

DOCS = Path(__file__).parents[2] / "docs"
Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]


def refuse(result: Any, *words: str) -> None:
    """Check the exit code 2, that the messages contain all these words, and that each message has a hint."""
    assert result.code == 2, result
    assert result.out == ""
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err
    assert max(map(len, result.err.splitlines())) < 2000
    assert result.err.count("\n  hint: ") == result.err.count("error: ") or "Try 'bake" in result.err, result.err


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_is_answered_as_declared(bake: Bake, picture: Picture, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    kind.lay_out()
    for name, value in kind.environment.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    if kind.clock:
        monkeypatch.setattr("generator.cli.root.datetime", _stopped(kind.clock))
    before = picture(Path.cwd())
    result = bake(*kind.words)
    if kind.code == 2:
        refuse(result, *kind.says)
        assert picture(Path.cwd()) == before
    else:
        assert result.code == kind.code, result
        assert all(word in result.out + result.err for word in kind.says), result
        assert Path("out/etcd/manifest.json").exists()


def _stopped(clock: datetime) -> Any:
    """A `datetime` whose `now` is always the same."""
    return type("Stopped", (datetime,), {"now": classmethod(lambda *_: clock)})


def test_the_docs_state_the_size_of_the_catalogue() -> None:
    refused = sum(kind.code == 2 for kind in KINDS.values())
    page, security = ((DOCS / name).read_text() for name in ("reference/input.md", "explanation/security.md"))
    stated = f"lists **{len(KINDS)} kinds** of bad input. bake refuses {refused} kinds. "
    stated += f"bake accepts {len(KINDS) - refused} harmless kinds"
    assert stated in " ".join(page.split())
    assert f"| {len(KINDS)} of {len(KINDS)} |" in page
    assert f"| bake gives the expected answer to {len(KINDS)} kinds of bad input;" in security


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_no_umask_is_a_trouble(bake: Bake, umask: int) -> None:
    os.umask(umask)
    assert bake("--nodes", 1).code == 0
    assert Path("out/etcd/etcd1/seed.iso").stat().st_mode & 0o777 == 0o600


def test_every_problem_is_named_at_once(bake: Bake) -> None:
    text = "name: A_b\nnodes: [{name: a}, {name: a}, {name: '$(x)'}]\nvm: {memory: lots, cpuz: 2}\npki: {keyType: x}"
    Path("cluster.yaml").write_text(text)
    result = bake("--config", "cluster.yaml")
    fields = ("name", "nodes[1].name", "nodes[2].name", "vm.memory", "vm.cpuz", "pki.keyType")
    refuse(result, *(f" {field}: " for field in fields))
    assert result.err.count("error: ") == len(fields)


def test_a_problem_is_named_once(bake: Bake) -> None:
    Path("cluster.yaml").write_text("etcd: {options: {cors: [a]}}\nnodes: {a: 1}")
    assert bake("--config", "cluster.yaml").err.count("error: ") == 2


def test_a_missing_libvirt_is_named_with_its_remedy(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generator.vm.connection.libvirt", None)
    result = bake("status")
    assert result.code in (1, 2)
    assert "hint: " in result.err


def test_check_writes_nothing(bake: Bake, tmp_path: Path) -> None:
    assert bake("check", "--nodes", 3).code == 0
    assert list(tmp_path.iterdir()) == []
