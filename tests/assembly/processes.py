"""The processes of a node, found by what their environment says: no matter who started them, or is left of them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KINDS = ("etcd-join", "etcd-promote", "etcdctl", "etcd")  # a shim's or a hook's name is not in the first place


@dataclass(frozen=True, slots=True)
class Found:
    """`kind` is one of KINDS, or "other" for what a hook calls."""

    pid: int
    kind: str
    leads: bool  # its process group: the hook itself, not a subshell of it


def kind_of(command: bytes) -> str:
    words = [os.path.basename(word) for word in command.decode(errors="replace").split("\0")[:3]]  # noqa: PTH119
    return next((kind for kind in KINDS if kind in words), "other")


def below(folder: Path) -> list[Found]:
    """Every process whose environment names something in this folder."""
    wanted, found = f"{folder}/".encode(), []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if wanted in Path(entry.path, "environ").read_bytes():
                pid = int(entry.name)
                kind = kind_of(Path(entry.path, "cmdline").read_bytes())
                found.append(Found(pid, kind, os.getpgid(pid) == pid))
    return found


def etcd_of(folder: Path) -> int | None:
    """The pid of the etcd below this folder that this process has started; quicker than `below`."""
    for task in os.scandir("/proc/self/task"):
        with suppress(OSError):
            for pid in Path(task.path, "children").read_text().split():
                with suppress(OSError):
                    process = Path("/proc", pid)
                    named = process.joinpath("comm").read_text() == "etcd\n"
                    if named and f"{folder}/".encode() in process.joinpath("environ").read_bytes():
                        return int(pid)
    return None


def kill(process: Found) -> None:
    """SIGKILL. What is left of a hook goes a moment later, as systemd does with the rest of a control group."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    if process.kind.startswith("etcd-") and process.leads:
        time.sleep(0.02)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def sweep(folder: Path) -> None:
    """Nothing that was started below this folder outlives this."""
    for _ in range(20):
        left = below(folder)
        if not left:
            return
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)
