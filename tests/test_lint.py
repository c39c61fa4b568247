"""Linters, as tests: one command shows everything."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUEST = ROOT / "generator/seed/guest"
LIBEXEC = GUEST / "usr/libexec/bake"


def interpreter(path: Path) -> str:
    """Return the first line of a script; empty for a file that is none."""
    first = path.read_bytes()[:64].partition(b"\n")[0] if path.is_file() else b""
    return first.decode() if first.startswith(b"#!") else ""


SHELL = sorted(
    path
    for folder in (".ci", "scripts", "generator", "tests")
    for path in (ROOT / folder).rglob("*")
    if interpreter(path).endswith("sh")
)
PYTHON = sorted(path for path in LIBEXEC.iterdir() if path.suffix == ".py" or "python" in interpreter(path))


def complaints(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def show(text: str) -> None:
    if text:
        pytest.fail(text, pytrace=False)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("command", ["ruff check generator tests", "mypy"])
def test_python_is_clean(command: str) -> None:
    module, *arguments = command.split()
    show(complaints(sys.executable, "-m", module, *arguments))


def test_the_guests_python_keeps_the_rules() -> None:
    show(complaints(sys.executable, "-m", "ruff", "check", *PYTHON))


def test_the_guests_python_is_clean() -> None:
    """Its modules find each other by the folder that they lie in, so they are not part of the package."""
    flags = ("--strict", "--config-file=", "--scripts-are-modules", "--explicit-package-bases")
    flags += (f"--cache-dir={ROOT / '.mypy_cache/guest'}",)
    command = [sys.executable, "-m", "mypy", *flags, *(path.name for path in PYTHON)]
    done = subprocess.run(command, cwd=LIBEXEC, env={"MYPYPATH": "."}, capture_output=True, text=True, check=False)
    show(done.stdout if done.returncode else "")


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_the_guests_python_is_old_enough(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("script", SHELL, ids=name)
def test_shell_is_clean(script: Path, tool: Callable[[str], str]) -> None:
    packaged = Path(sys.executable).with_name("shellcheck")
    shellcheck = packaged if packaged.exists() else tool("shellcheck")
    show(complaints(shellcheck, "--external-sources", "--source-path=SCRIPTDIR", script))


@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_shell_is_posix(shell: str, tool: Callable[[str], str]) -> None:
    words = [tool(shell), "sh"] if shell == "busybox" else [tool(shell)]
    show("".join(complaints(*words, "-n", script) for script in SHELL))


def test_finds_the_shell_scripts() -> None:
    assert {"scripts/setup", "scripts/test", ".ci/run"} <= set(map(name, SHELL))


def test_every_program_of_the_guest_is_linted() -> None:
    """`run.bake` programs have no suffix: each is found by its first line."""
    programs = {path for path in LIBEXEC.iterdir() if path.is_file()}
    assert programs == {path for path in (*SHELL, *PYTHON) if path.parent == LIBEXEC}
