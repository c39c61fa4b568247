"""The commands of the first boot, in the order of the manual procedure."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from generator.plan import ClusterPlan
from generator.seed.first_boot import boot_commands, first_boot_commands

Plan = Callable[..., ClusterPlan]
ARCHIVE = {"method": "archive", "archive": "x.tar.gz", "sha256": "0" * 64}


def test_steps_are_in_the_order_of_the_manual_procedure(plan: Plan) -> None:
    procedure = plan(install=ARCHIVE, pki={"permissions": "acl"}, vm={"dataDisk": 0})
    commands = "\n".join(first_boot_commands(procedure))
    steps = [
        "etcd-install",
        "useradd",
        "setfacl",
        "chown",
        "daemon-reload",
        "enable etcd-firewall etcd report-boot",
        "start --no-block",
    ]
    assert sorted(steps, key=commands.index) == steps


def test_the_user_is_created_only_if_it_is_missing(plan: Plan) -> None:
    (line,) = (line for line in first_boot_commands(plan()) if "useradd" in line)
    assert line.startswith("getent passwd etcd >/dev/null || useradd")
    assert " -u 2380 " in line


def test_etcd_owns_the_keys_before_the_folder_is_opened(plan: Plan) -> None:
    commands = list(first_boot_commands(plan()))
    (keys,) = (index for index, line in enumerate(commands) if "chmod 0400 etcd-server.key etcd-peer.key" in line)
    (opened,) = (index for index, line in enumerate(commands) if "setfacl --set" in line)
    assert opened > keys
    assert "u:etcd:x,g::-,o::- /etc/etcd/pki" in commands[opened]


def test_every_node_enables_etcd_and_does_not_wait(plan: Plan) -> None:
    commands = list(first_boot_commands(plan()))
    assert "systemctl --no-reload enable etcd-firewall etcd report-boot" in commands
    assert commands[-1] == "systemctl start --no-block etcd"


@pytest.mark.parametrize(
    ("fields", "word", "there"),
    [
        ({"firewall": {"kind": "none"}}, "firewall", False),
        ({"firewall": {"kind": "ufw"}}, "etcd-firewall", True),
        ({}, "etcd-install", False),
        ({"install": ARCHIVE}, "etcd-install", True),
    ],
)
def test_unused_features_have_no_commands(
    plan: Plan, fields: dict[str, object], word: str, there: bool
) -> None:
    assert any(word in line for line in first_boot_commands(plan(**fields))) == there


def test_the_boot_command_runs_before_the_keys_are_written(plan: Plan) -> None:
    (script,) = boot_commands()
    assert "chmod 0700 /etc/etcd/pki" in script


@pytest.mark.parametrize(("command", "called"), [("false", "--no-block start journal-copy\n"), ("true", "")])
def test_if_a_command_fails_the_journal_is_copied(plan: Plan, command: str, called: str, tmp_path: Path) -> None:
    """cloud-init runs all commands as one script of /bin/sh."""
    calls, systemctl = tmp_path / "calls", tmp_path / "systemctl"
    calls.touch()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    systemctl.chmod(0o755)
    script = "\n".join([*islice(first_boot_commands(plan()), 2), command, "true"])
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    assert (done.returncode == 0) is (command == "true")
    assert calls.read_text() == called
