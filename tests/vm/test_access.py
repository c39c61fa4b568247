"""Ways in to a node: SSH keys and a root shell on the serial console, and a seed that takes both away."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from generator.operations.baked_cluster import open_cluster
from generator.store.folder import Store
from tests.vm.conftest import Lab, Run, command_line, command_words

NAME = "way-in"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def run(lab: Lab, folder: Path) -> Iterator[Run]:
    found = command_line(lab, NAME, folder / "out")
    yield found
    found("destroy", "--yes")


def key(folder: Path, name: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    return folder / name


def ssh(folder: Path, secret: Path) -> subprocess.CompletedProcess[str]:
    """Ask the node for its user id and its failed units. The host key must be the one in `known_hosts`."""
    options = [
        f"UserKnownHostsFile={folder / 'known_hosts'}",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "ConnectTimeout=30",
    ]
    words = [word for option in options for word in ("-o", option)]
    question = "id -u; systemctl --failed --no-legend '*.service'"
    return subprocess.run(
        ["ssh", "-F", "none", *words, "-i", secret, f"root@{address(folder)}", question],
        text=True, capture_output=True, check=False,
    )  # fmt: skip


def address(folder: Path) -> str:
    return str(open_cluster(Store(folder / "out", NAME)).first.address)


def console(lab: Lab) -> str:
    return (lab.folder / "lib/images" / f"bake-{NAME}" / "etcd1.console.log").read_text(errors="replace")


def wait_for(words: str, terminal: int, *, seconds: float) -> str:
    """Return what the terminal shows until it shows `words`."""
    shown, deadline = "", time.monotonic() + seconds
    while words not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_a_person_with_the_key_is_root(run: Run, lab: Lab, folder: Path, connection: Any) -> None:
    own, other = key(folder, "own"), key(folder, "other")
    config = folder / "cluster.yaml"
    config.write_text(f"access:\n  rootShell: true\n  sshKeys: [{own.with_suffix('.pub').read_text().strip()}]\n")
    run("up", "--nodes", 1, "--profile", "ci", "--config", config, "--wait", 900)
    deadline = time.monotonic() + 300
    while "SHA256:" not in console(lab):
        assert time.monotonic() < deadline
        time.sleep(1)
    scan = subprocess.run(
        ["ssh-keyscan", "-T", "60", "-t", "ed25519", address(folder)], text=True, capture_output=True, check=True
    )
    (folder / "known_hosts").write_text(scan.stdout)
    printed = subprocess.run(["ssh-keygen", "-l", "-f", "-"], input=scan.stdout, text=True, capture_output=True)
    assert printed.stdout.split()[1] in console(lab), "the fingerprint on the console is the node's"
    done = ssh(folder, own)
    assert done.stdout == "0\n", f"{done.stdout}{done.stderr}"  # no unit has failed
    refused = ssh(folder, other)
    assert (refused.returncode, "Permission denied (publickey" in refused.stderr) == (255, True), refused.stderr


def test_the_serial_console_has_a_root_shell(run: Run, lab: Lab, folder: Path) -> None:
    keyboard, screen = pty.openpty()
    line = command_words(lab, NAME, folder / "out", "console", "etcd1")
    with (
        closing(os.fdopen(keyboard, "r+b", buffering=0)),
        subprocess.Popen(line, stdin=screen, stdout=screen) as process,
    ):
        os.close(screen)
        time.sleep(2)  # bake sets the terminal to raw mode
        os.write(keyboard, b"\r")
        wait_for("# ", keyboard, seconds=120)
        os.write(keyboard, b"echo $((6 * 7))-$(id -u)\r")
        wait_for("42-0", keyboard, seconds=120)
        os.write(keyboard, b"\x1d")
        assert process.wait(60) == 0


def test_a_seed_without_them_takes_both_away(run: Run, lab: Lab, folder: Path) -> None:
    config = folder / "cluster.yaml"
    config.write_text("access: {rootShell: false, sshKeys: []}\n")
    said = run("apply", "--nodes", 1, "--profile", "ci", "--config", config, "--yes", "--wait", 900).stderr
    assert "reboot" in said
    run("verify")
    refused = ssh(folder, folder / "own")
    assert (refused.returncode, "Connection refused" in refused.stderr) == (255, True), refused.stderr
    assert "root-shell.service" not in console(lab)
