"""A bake in a fork of this process, with strace at it from its first system call: a tenth of a new process's work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generator import cli, pki
from generator.config import load
from generator.operations import bake
from generator.store import folder

LOADED = (bake, pki, load, folder)  # imported once, here


@dataclass(frozen=True)
class End:
    """How a bake ended: the exit code, or minus the signal; and what it said."""

    code: int
    said: str


def run(*words: str, work: Path, strace: tuple[str, ...] = ()) -> End:
    """A bake in the folder `work`, and strace with these words at it."""
    (end,) = run_all(words, work=work, strace=strace)
    return end


def run_all(*bakes: tuple[str, ...], work: Path, strace: tuple[str, ...] = ()) -> list[End]:
    """Several bakes in one folder at the same time."""
    children = {}
    for number, words in enumerate(bakes):
        said = work.with_name(f"{work.name}.said-{number}")
        child = os.fork()
        if not child:
            _bake(words, work, said)
        children[child] = said
    for child in children:
        os.waitpid(child, os.WUNTRACED)
    tracers = [_attach(child, strace) for child in children if strace]
    for child in children:
        os.kill(child, signal.SIGCONT)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for tracer in tracers:
        tracer.communicate()
    return [End(code, said.read_text()) for code, said in zip(codes, children.values(), strict=True)]


def run_apart(act: Callable[[], object], work: Path) -> End:
    """Something else than a bake, in a fork of this process."""
    said, child = work.with_name(f"{work.name}.said"), os.fork()
    if not child:
        _exit_after(act, work, said)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return End(code, said.read_text())


def _attach(child: int, words: tuple[str, ...]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(["strace", *words, "-p", str(child)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    return tracer


def _bake(words: tuple[str, ...], work: Path, said: Path) -> None:
    def act() -> None:
        sys.argv[1:] = words
        os.kill(os.getpid(), signal.SIGSTOP)
        cli.main()

    _exit_after(act, work, said)


def _exit_after(act: Callable[[], object], work: Path, said: Path) -> None:
    code = 99
    try:
        os.chdir(work)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        act()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    except BaseException:  # what would be a crash of bake
        traceback.print_exc()
    finally:
        os._exit(code)
