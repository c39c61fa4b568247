"""A bake that is killed at one of its system calls, or told that the disk is full or bad: old or new, never mixed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.forked import End, run
from tests.hostile.report import tell
from tests.hostile.syscalls import Call, parse

# Words of the bake that makes the old folder (none: there is none), and of the one that is disturbed.
# One network for all: the CA is bound to it.
SMALL = ("--yes", "--nodes", "2", "--subnet", "10.9.0.0/16")
LARGE = ("--yes", "--nodes", "3", "--subnet", "10.9.0.0/16", "--first-ip", "10.9.9.31")
BAKES: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "first": (None, LARGE),
    "grown": (SMALL, LARGE),
    "shrunk": (LARGE, SMALL),
    "resized": (LARGE, (*LARGE, "--memory", "2048")),  # only the spec changes, the rest is linked
}
KILL = "signal=KILL"
_CHANGES = {"mkdir", "write", "link", "rename", "renameat2", "syncfs", "fsync", "openat"}
# What can fail in which way; a kill may come before any of what changes the disk.
DEEDS = {
    KILL: _CHANGES | {"fchmod", "close", "unlinkat", "rmdir"},
    "error=ENOSPC": _CHANGES,
    "error=EIO": _CHANGES | {"fchmod", "close", "unlinkat", "rmdir", "read", "getdents64", "flock"},
}


@dataclass(frozen=True)
class Point:
    """One disturbance: in which bake, what, at which call."""

    bake: str
    deed: str
    call: Call

    def __str__(self) -> str:
        path = self.call.paths[0].rpartition("/")[2] if self.call.paths else ""
        return f"{self.bake}: {self.deed} at {self.call.name} {self.call.number} {path}"


def points(bake: str, scratch: Path) -> list[Point]:
    """Everywhere that a bake can be disturbed, from the first call that names the output folder on."""
    work, log = fresh(bake, scratch), scratch / "trace"
    run(*BAKES[bake][1], work=work, strace=("-f", "-y", "-s0", "-o", str(log), "-e", "trace=%file,%desc"))
    calls = parse(log.read_text())
    own = [call for call in calls if any(Path(path).is_relative_to(work / "out") for path in call.paths)]
    return [
        Point(bake, deed, call)
        for deed, names in DEEDS.items()
        for call in own
        if call.name in names and (deed == "error=EIO" or call.name != "openat" or call.creates)
    ]


def fresh(bake: str, scratch: Path) -> Path:
    """A working folder with the old output folder in it."""
    work, words = scratch / "work", BAKES[bake][0]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if words:
        pristine = scratch / f"old-{bake}"
        if not pristine.exists():
            pristine.mkdir()
            run(*words, work=pristine)
        shutil.copytree(pristine / "out", work / "out")
    return work


def contents(folder: Path) -> dict[str, str]:
    """Every file and its digest; a folder that is not there has none."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_whole(folder: Path) -> bool:
    """Exactly what its manifest says."""
    found = contents(folder)
    if not found.pop("manifest.json", None):
        return False
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    return found == {name: entry["sha256"] for name, entry in manifest.items()}


def try_point(point: Point, scratch: Path) -> tuple[str, list[str]]:
    """`old` or `new`, and everything that is wrong with what was left."""
    work = fresh(point.bake, scratch)
    folder, words = work / "out/etcd", BAKES[point.bake][1]
    before = contents(folder)
    call = point.call
    inject = f"inject={call.name}:{point.deed}:when={call.number}"
    done = run(*words, work=work, strace=("-f", "-o", "/dev/null", "-e", f"trace={call.name}", "-e", inject))
    after = contents(folder)
    state = "old" if after == before else "new" if is_whole(folder) else "mixed"
    wrong = [*_told_wrong(point, done, state), *_readable(work / "out")]
    if state == "mixed":
        wrong.append("the folder is neither the old nor the new")
    run(*words, work=work)
    if not is_whole(folder) or [path.name for path in (work / "out").iterdir()] != ["etcd"]:
        wrong.append("the next bake does not put it right")
    return state, [f"{point}: {text}" for text in wrong]


def _told_wrong(point: Point, done: End, state: str) -> Iterator[str]:
    """What exit code and message say otherwise than the folder does."""
    errors = [line for line in done.said.splitlines() if line.startswith("error: ")]
    if point.deed == KILL:
        if done.code != -9:
            yield f"exit code {done.code}, not killed"
    elif done.code == 0:
        if state == "old":
            yield "exit code 0, and nothing new"
    elif done.code not in (1, 2) or len(errors) != 1 or "Traceback" in done.said:
        yield f"exit code {done.code} and not one clear message: {done.said[-800:]!r}"
    elif ("nothing has changed" in errors[0] or done.code == 2) != (state == "old"):
        yield f"the folder is {state}, and it says: {errors[0]}"


def _readable(out: Path) -> Iterator[str]:
    """Keys that another user could have read, in a folder half made too."""
    for path in out.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077 and b"PRIVATE KEY" in path.read_bytes():
            yield f"{path.name} is readable to others"


def measure(every: int, scratch: Path) -> dict[str, Any]:
    """Every point of every bake, or each `every`th."""
    failures: list[str] = []
    found = {deed: {"old": 0, "new": 0, "mixed": 0} for deed in DEEDS}
    for bake in BAKES:
        for point in points(bake, scratch)[::every]:
            state, wrong = try_point(point, scratch)
            found[point.deed][state] += 1
            failures += wrong
            for text in wrong:
                tell(text)
        tell(f"{bake}: {found}")
    trials = sum(sum(states.values()) for states in found.values())
    return {"trials": trials, "failures": failures, "figures": found}
