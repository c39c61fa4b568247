"""The system calls of a bake, as strace sees them; and a bake to which strace does something at one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.report import ROOT

BAKE = [sys.executable, "-m", "generator.cli"]
CALLS = "%file,%desc,%process,socket,connect"
_LINE = re.compile(r"^\d+ +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\w+)(?P<more>.*)$")


@dataclass(frozen=True)
class Call:
    """One system call. `number` counts those of its name, as strace's `when` does."""

    name: str
    number: int
    arguments: str
    failed: bool

    @property
    def paths(self) -> list[str]:
        """The paths that it names; those of descriptors too."""
        named = re.sub(r"AT_FDCWD<[^>]*>", "", self.arguments)
        return re.findall(r'"((?:[^"\\]|\\.)*)"', named) + re.findall(r"<(/[^>]*)>", named)

    @property
    def flags(self) -> set[str]:
        return set(re.findall(r"\bO_[A-Z]+", self.arguments))

    @property
    def mode(self) -> str:
        """The last argument, where that is a mode."""
        return self.arguments.rsplit(", ", 1)[-1]

    @property
    def creates(self) -> bool:
        return self.name == "openat" and "O_CREAT" in self.flags


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAKE_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def watch(*words: str, work: Path, umask: int = 0o022, calls: str = CALLS) -> list[Call]:
    """Every system call of a bake in the folder `work`, in order."""
    log = work.with_name(f"{work.name}.trace")
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls}"]
    done = subprocess.run(
        [*strace, *BAKE, *words],
        cwd=work, env=environment(), umask=umask, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return parse(log.read_text())


def parse(log: str) -> list[Call]:
    """What strace wrote with -f and -y."""
    found: list[Call] = []
    counts: Counter[str] = Counter()
    for line in log.splitlines():
        if match := _LINE.match(line):
            counts[match["name"]] += 1
            failed = match["result"].startswith("-")
            found.append(Call(match["name"], counts[match["name"]], match["arguments"], failed))
    return found
