"""forget-seed and apply-seed in a temporary root: which parts of a seed a node keeps, and applies from a new seed."""

from __future__ import annotations

import gzip
import shutil
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from generator.config.load import load
from generator.operations.bake import bake
from generator.seed.iso import without_drive
from generator.store.folder import Store
from tests.hostile.syscalls import Call, parse
from tests.unit.guest_root import NOW, REPORT, RESTART, Guest

REBOOT_LEVEL = {"firewall": {"kind": "iptables"}}  # a change of settings that needs a reboot
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"]}


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tool: Callable[[str], str]) -> list[str]:
    words = SHELLS[request.param]
    tool(words[0])
    return words


def test_a_settled_node_keeps_no_secret_of_its_seed(guest: Guest, shell: list[str]) -> None:
    assert f"phase=settled seed={guest.instance()}\n" in guest.forget(shell)
    left = {path.relative_to(guest.root) for path in guest.root.rglob("*") if path.is_file() or path.is_symlink()}
    assert {str(path) for path in left} - {path.lstrip("/") for path in guest.written_files()} == {
        "etc/cloud/cloud-init.disabled",
        "var/lib/bake/configured",
        "var/lib/bake/network-config",
        "var/lib/bake/seed",
        "var/lib/cloud/data/result.json",
    }
    kept = guest.root / "var/lib/bake/seed"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "bake.env" in kept.read_text()
    secrets = [line for key in guest.pki.glob("*.key") for line in key.read_text().splitlines()[1:-1]]
    assert not any(line in kept.read_text() for line in secrets)


def test_created_files_get_the_selinux_label_of_their_folder(guest: Guest, shell: list[str]) -> None:
    restorecon, calls = guest.root.parent / "bin/restorecon", guest.root.parent / "calls"
    restorecon.write_text(f'#!/bin/sh\ntest -f "$1" && echo "$*" >>{calls}\n')
    restorecon.chmod(0o755)
    guest.forget(shell)
    assert calls.read_text() == f"{guest.off}\n"


def test_a_second_run_of_forget_seed_changes_nothing(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    before = (guest.root / "var/lib/bake/seed").read_text()
    guest.forget(shell)
    assert (guest.root / "var/lib/bake/seed").read_text() == before


def test_the_applied_seed_changes_nothing(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    before = guest.certificates()
    assert (guest.insert().stdout, guest.certificates()) == ("", before)


def test_new_certificates_replace_the_old_certificates(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    (guest.pki / "etcd-server.key").chmod(0o640)
    before = guest.certificates()
    guest.bake()
    done = guest.insert()
    assert (done.returncode, done.stderr) == (0, "")
    assert f'phase=settled seed={guest.instance()} detail="new certificates applied"' in done.stdout
    after = guest.certificates()
    assert {name for name in before if before[name] != after[name]} == set(before) - {"etcd-ca.pem", "etcd-peer-ca.pem"}
    files = guest.written_files()
    assert all(files[f"/etc/etcd/pki/{name}"] == text for name, text in after.items())
    modes = {path.name: path.stat().st_mode & 0o777 for path in guest.pki.iterdir() if path.suffix == ".key"}
    assert modes == {"etcd-server.key": 0o640, "etcd-peer.key": 0o600, "etcd-client.key": 0o600}
    assert guest.pki.stat().st_mode & 0o777 == 0o710
    assert not guest.pki.with_name("pki.new").exists()
    assert (guest.root / "var/lib/bake/configured").read_text().strip() == guest.instance()
    assert guest.off.exists()
    assert guest.insert().stdout == ""


def watched(guest: Guest, strace: str) -> list[Call]:
    """Run apply-seed under strace, and return its system calls."""
    log = guest.root.with_name("trace")
    guest.insert(strace, "-qq", "-y", "-s0", "-o", str(log), "-e", "trace=%file,%desc,sync", sys.executable)
    return parse("".join(f"1 {line}\n" for line in log.read_text().splitlines()))


def test_cloud_init_stays_enabled_after_a_power_cut(
    guest: Guest, shell: list[str], tool: Callable[[str], str]
) -> None:
    guest.forget(shell)
    guest.bake(**REBOOT_LEVEL)
    calls = watched(guest, tool("strace"))
    names = [call.name for call in calls if call.name == "sync" or str(guest.off) in call.paths]
    assert names[-2:] == ["unlink", "sync"]


def test_new_certificates_are_synced_and_then_exchanged_in_one_system_call(
    guest: Guest, shell: list[str], tool: Callable[[str], str]
) -> None:
    """etcd may read the certificates at any time. Between two renames, there would be no folder."""
    guest.forget(shell)
    guest.bake()
    calls = watched(guest, tool("strace"))
    places = (str(guest.pki), str(guest.pki.with_name("pki.new")))
    (swap,) = (call for call in calls if "rename" in call.name and set(places) & set(call.paths))
    assert (set(swap.paths), swap.failed) == (set(places), False)
    assert "RENAME_EXCHANGE" in swap.arguments
    begun = calls[: calls.index(swap)]
    changes = [call for call in begun if call.creates or call.name in ("write", "fchmod", "chmod", "chown", "setxattr")]
    syncs = [call for call in begun if call.name == "sync"]
    assert begun.index(syncs[-1]) > begun.index([call for call in changes if "pki" in "".join(call.paths)][-1])
    after = [call.name for call in calls[calls.index(swap) :]]
    assert after.index("sync") < after.index("unlinkat"), "old files are removed only after the sync"


def test_another_ca_is_applied_and_etcd_is_restarted(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    guest.bake()
    guest.insert()
    assert not (guest.root / "run/bake/restart-etcd").exists()
    assert guest.calls() == REPORT
    before = guest.certificates()["etcd-ca.pem"]
    guest.bake(change=lambda found: found.advanced())
    assert (guest.insert().returncode, (guest.root / "run/bake/restart-etcd").exists()) == (0, True)
    assert guest.certificates()["etcd-ca.pem"].startswith(before)
    assert guest.certificates()["etcd-ca.pem"].count("BEGIN CERTIFICATE") == 2
    assert guest.calls() == REPORT * 2 + RESTART
    guest.insert()
    assert guest.calls() == REPORT * 2 + RESTART * 2, "each insertion starts it, until it has run"


def test_an_interrupted_renewal_is_repeated(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    shutil.copytree(guest.pki, guest.pki.with_name("pki.new"))
    guest.bake()
    assert "new certificates applied" in guest.insert().stdout
    assert not guest.pki.with_name("pki.new").exists()


def test_a_key_that_does_not_match_its_certificate_is_refused(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    guest.bake(change=lambda found: found.advanced())
    before = guest.certificates()
    new = guest.written_files()
    text = guest.seed("user-data")
    mine, other = (textwrap.indent(new[f"/etc/etcd/pki/etcd-{role}.key"], "    ") for role in ("server", "peer"))
    assert mine in text
    (guest.store.folder / "etcd1/user-data").write_text(text.replace(mine, other))
    done = guest.insert()
    assert done.returncode != 0
    assert guest.certificates() == before
    assert not (guest.root / "run/bake/restart-etcd").exists()


def test_cloud_init_applies_other_settings_at_the_next_boot(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    before = guest.certificates()
    guest.bake(**REBOOT_LEVEL)
    done = guest.insert()
    assert 'phase=waiting detail="a new seed takes effect at the next boot"' in done.stdout
    assert guest.certificates() == before
    assert not guest.off.exists()
    assert guest.insert().returncode == 0, "a second insertion before the boot is accepted"


def test_a_node_that_gets_its_applied_seed_again_needs_no_cloud_init(guest: Guest, shell: list[str]) -> None:
    """A node that boots with cloud-init and without a seed would get its address by DHCP."""
    guest.forget(shell)
    applied = guest.instance()
    guest.bake(renew=False, **REBOOT_LEVEL)
    guest.insert()
    assert (guest.waits.exists(), guest.off.exists()) == (True, False)
    guest.bake(renew=False)
    assert guest.instance() == applied
    assert f'phase=settled seed={applied} detail="the applied seed is in the drive again"' in guest.insert().stdout
    assert (guest.waits.exists(), guest.off.exists()) == (False, True)
    assert guest.insert().stdout == ""


def test_a_node_that_gets_a_seed_without_the_reboot_applies_it_and_needs_no_cloud_init(
    guest: Guest, shell: list[str]
) -> None:
    guest.forget(shell)
    guest.bake(**REBOOT_LEVEL)
    guest.insert()
    guest.bake()
    assert f"phase=settled seed={guest.instance()}" in guest.insert().stdout
    assert (guest.waits.exists(), guest.off.exists()) == (False, True)


def test_a_booting_node_reboots_to_apply_other_settings(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    systemctl = guest.root.parent / "bin/systemctl"
    systemctl.write_text(systemctl.read_text().replace("echo running", "echo starting; exit 1"))  # 1: not "running"
    guest.bake(**REBOOT_LEVEL)
    assert guest.insert().returncode == 0
    assert (guest.root.parent / "calls").read_text().splitlines()[-1] == "--no-block reboot"


def test_the_seed_of_another_node_is_ignored(guest: Guest, shell: list[str]) -> None:
    guest.forget(shell)
    before = guest.certificates()
    done = guest.insert(node="etcd2")
    assert done.returncode == 1
    assert "belongs to another node" in done.stdout
    assert guest.off.exists()
    assert guest.certificates() == before


def test_the_seed_of_another_cluster_is_ignored(guest: Guest, shell: list[str], tmp_path: Path) -> None:
    guest.forget(shell)
    other = Store(tmp_path / "other", "etcd")
    bake(load(flags={"--nodes": (("nodes",), 2)}).spec, other, now=NOW + timedelta(days=1), report=print)
    guest.store = other
    assert guest.insert().returncode == 1
    assert guest.off.exists()


def test_a_settled_node_without_a_drive_keeps_neither_keys_nor_the_permit(guest: Guest, shell: list[str]) -> None:
    """Such a node gets compressed user-data with the bootstrap permit. Its copy is that of a node with a drive."""
    user_data, copy = guest.seed("user-data").encode(), guest.root / "var/lib/cloud/instances/i/user-data.txt"
    kept = guest.root / "var/lib/bake/seed"
    guest.forget(shell)
    expected = kept.read_bytes()
    copy.parent.mkdir(parents=True)
    (guest.root / "var/lib/cloud/instance").symlink_to("instances/i")
    meta_data = guest.seed("meta-data").encode()
    copy.write_bytes(gzip.compress(without_drive(user_data, meta_data, b"0123456789abcdef" * 4)))
    kept.unlink()
    guest.forget(shell)
    assert kept.read_bytes() == expected
    assert b"bake.env" in expected
