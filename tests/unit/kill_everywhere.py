"""Bakes over an existing cluster again and again, killed with SIGKILL at another moment each time.

    kill_everywhere.py FOLDER [EVERY]    prints `MOMENT old|new` for each kill; fails at a mixed folder

A moment is anything the interpreter does below the output folder: open, link, mkdir, rename, …
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from generator import bake, cli, pki, profile
from generator.host import store

LOADED = (bake, pki, profile, store)  # imported once, here, so that a bake costs only its work


def run_bake(out: Path, nodes: int, subnet: str, die_at: int | None = None) -> int:
    """Bake in a child process, which kills itself at the given moment; returns its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    moments = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal moments
        if event == "ctypes.dlsym" or any(
            isinstance(each, str | Path) and str(out) in str(each) for each in arguments
        ):
            moments += 1
            if moments == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv[1:] = ["-q", "--nodes", str(nodes), "--subnet", subnet, "--out", str(out)]
    try:
        cli.main()
    finally:
        os._exit(0)


def look(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_complete(folder: Path) -> bool:
    files = {
        name: entry["sha256"]
        for name, entry in json.loads((folder / "manifest.json").read_text())["files"].items()
    }
    return look(folder) == {**files, "manifest.json": digest(folder / "manifest.json")}


def main(work: Path, every: int) -> None:
    out, pristine = work / "out", work / "pristine"
    assert run_bake(pristine, 2, "10.9.0.0/16") == 0
    old = look(pristine / "etcd")
    for moment in range(1, 10_000, every):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(pristine, out)
        status = run_bake(out, 3, "10.9.9.0/24", die_at=moment)
        if not os.WIFSIGNALED(status):
            break
        new = look(out / "etcd") != old
        assert is_complete(out / "etcd"), f"mixed after a kill at moment {moment}"
        print(moment, "new" if new else "old")
        assert run_bake(out, 3, "10.9.9.0/24") == 0
        left = [path.name for path in out.iterdir()]
        assert left == ["etcd"], f"left after a kill at moment {moment}: {left}"
        assert is_complete(out / "etcd")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
