"""etcd-failed with a fake read-journal: the console gets one line with the reason, and only after a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.assembly.miniature import GUEST

FATAL = json.dumps({"level": "fatal", "ts": "x", "msg": "discovery failed", "error": "member count is unequal"})
INFO = json.dumps({"level": "info", "msg": "closing etcd server"})


@pytest.fixture
def failed(tmp_path: Path) -> Callable[..., str]:
    """Return `failed(*lines)`: what the script prints if the journal has these lines."""

    def run(*lines: str, result: str = "exit-code") -> str:
        (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
        journal = tmp_path / "read-journal"
        journal.write_text(f'#!/bin/sh\n[ "$1" = --sync ] || cat {tmp_path}/lines\n')
        journal.chmod(0o755)
        for name in ("etcd-failed", "node.py", "join_decision.py"):
            (tmp_path / name).write_bytes((GUEST / name).read_bytes())
        environment = {
            "SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": "1", "BAKE_NAME": "etcd2",
            "INVOCATION_ID": "0" * 32,
        }  # fmt: skip
        command = [sys.executable, str(tmp_path / "etcd-failed")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    return run


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([INFO, FATAL, INFO], "discovery failed: member count is unequal"),
        (["Usage:", "error verifying flags, see 'etcd --help'"], "error verifying flags, see"),
        (["one", "two"], "two"),
        ([], "no message"),
        (['say "no" {x}'], "say 'no' x"),
    ],
)
def test_the_reason_is_the_last_error(lines: list[str], reason: str, failed: Callable[..., str]) -> None:
    assert failed(*lines).startswith(f'bake: node=etcd2 phase=failing detail="exited 1: {reason}')


def test_a_stop_is_no_failure(failed: Callable[..., str]) -> None:
    assert failed(FATAL, result="success") == ""


def test_a_hook_that_has_said_the_reason_is_not_repeated(failed: Callable[..., str]) -> None:
    assert failed('bake: node=etcd2 phase=failed detail="no disk"') == ""


def test_a_long_message_is_cut(failed: Callable[..., str]) -> None:
    assert len(failed("x" * 5000)) < 500
