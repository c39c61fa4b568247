"""Both ways of etcd's keys with real files: whatever becomes of their modes and ACLs, etcd is never locked out."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.plan import ClusterPlan
from generator.render import PKI_DIR, _etcd_unit
from generator.steps import first_boot_commands

pytestmark = pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="other users need root")
KEY = "etcd-server.key"
# `daemon` stands in for etcd. What somebody may do to a key, or cloud-init when a first boot begins again.
DEEDS = ("chmod 0600 {}", "chmod 0400 {}", "chmod 0640 {}", "setfacl -m u:daemon:r {}", "setfacl -b {}")
Plan = Callable[..., ClusterPlan]


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    """A node's folder of keys, as cloud-init and bootcmd leave it; every folder above lets people pass."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    pki = tmp_path / "conf" / "pki"
    pki.mkdir(parents=True)
    pki.chmod(0o700)
    for role in ("ca", "server", "peer", "client"):
        (pki / f"etcd-{role}.pem").touch(0o644)
        (pki / f"etcd-{role}.key").touch(0o600)
    (pki / "etcd-ca.key").unlink()
    return pki


def here(command: str, folder: Path) -> str:
    command = command.replace(str(PKI_DIR), str(folder)).replace(str(PKI_DIR.parent), str(folder.parent))
    return re.sub(r"\betcd(?=:| |\))", "daemon", command).replace("u:etcd", "u:daemon")


def run(command: str) -> None:
    subprocess.run(["sh", "-euc", command], check=True)


def set_up(plan: ClusterPlan, folder: Path) -> None:
    for line in first_boot_commands(plan):
        if str(PKI_DIR) in line and "restorecon" not in line:
            run(here(line, folder))


def start(plan: ClusterPlan, folder: Path) -> None:
    """What etcd.service does to the keys before it starts etcd."""
    for command in re.findall(r'^ExecStartPre=\+/bin/sh -c "(.*)"$', _etcd_unit(plan).data.decode(), re.MULTILINE):
        run(here(command, folder))


def can_read(user: str, path: Path) -> bool:
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "cat", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("way", ["owner", "acl"])
def test_etcd_alone_reads_every_file(way: str, plan: Plan, folder: Path) -> None:
    set_up(plan(pki={"permissions": way}), folder)
    for path in folder.iterdir():
        assert (can_read("daemon", path), can_read("nobody", path)) == (True, False), path


@pytest.mark.parametrize("deeds", [*itertools.permutations(DEEDS, 2)], ids=" then ".join)
def test_nothing_that_is_done_to_a_key_locks_etcd_out(
    deeds: tuple[str, ...], plan: Plan, folder: Path
) -> None:
    wanted = plan(pki={"permissions": "owner"})
    set_up(wanted, folder)
    for deed in deeds:
        run(deed.format(folder / KEY))
        assert can_read("daemon", folder / KEY)
        assert not can_read("nobody", folder / KEY)


@pytest.mark.parametrize("deed", DEEDS)
def test_with_an_acl_etcds_next_start_heals_what_was_done_to_a_key(
    deed: str, plan: Plan, folder: Path
) -> None:
    wanted = plan(pki={"permissions": "acl"})
    set_up(wanted, folder)
    run(deed.format(folder / KEY))
    start(wanted, folder)
    assert (can_read("daemon", folder / KEY), can_read("nobody", folder / KEY)) == (True, False)


def test_with_an_acl_a_chmod_locks_etcd_out_until_then(plan: Plan, folder: Path) -> None:
    """Why `owner` is the default."""
    set_up(plan(pki={"permissions": "acl"}), folder)
    assert shutil.which("setfacl")
    assert (folder / KEY).stat().st_mode & 0o777 == 0o640  # what an auditor sees, though the group may read nothing
    run(f"chmod 0600 {folder / KEY}")
    assert not can_read("daemon", folder / KEY)
