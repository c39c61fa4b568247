"""apply-seed in a temporary root: what a settled node does at each level, and after an interruption at any step."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.guest_root import GUEST, REPORT, RESTART, Guest

FIREWALL = {"firewall": {"clientCidrs": ["10.1.0.0/16"]}}
OPTION = {"etcd": {"options": {"heartbeat-interval": 150}}}
READERS = {"access": {"readers": ["backup"]}}
AUTH = {"auth": True}
RESTART_FIREWALL = "restart etcd-firewall.service\n"
Picture = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """A settled node."""
    made = Guest(tmp_path)
    made.forget(["sh"])
    return made


def differing(guest: Guest) -> set[str]:
    """Return the paths of the files that differ from the seed."""
    files = guest.written_files().items()
    return {path for path, text in files if (guest.root / path.lstrip("/")).read_text() != text}


def is_applied(guest: Guest) -> bool:
    """Return whether the node has recorded the seed and has its files."""
    configured = (guest.root / "var/lib/bake/configured").read_text().strip()
    is_done = not (guest.root / "var/lib/bake/applying").exists()
    return configured == guest.instance() and is_done and not differing(guest)


def edit(guest: Guest, name: str, old: str, new: str) -> None:
    """Change a file of the node's seed."""
    text = guest.seed(name)
    assert old in text
    (guest.store.folder / "etcd1" / name).write_text(text.replace(old, new))


def edit_seed(guest: Guest, old: str, new: str) -> None:
    """Change the node's user-data, and give the seed another instance-id."""
    edit(guest, "user-data", old, new)
    edit(guest, "meta-data", guest.instance(), f"etcd1-{os.urandom(8).hex()}")


def test_more_members_are_live(guest: Guest) -> None:
    guest.bake(renew=False, nodes=3)
    assert differing(guest) == {"/etc/etcd/bake.env"}
    done = guest.insert()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f'bake: node=etcd1 phase=settled seed={guest.instance()} detail="new configuration applied"\n'
    )
    assert is_applied(guest)
    assert guest.calls() == RESTART_FIREWALL + REPORT
    assert not (guest.root / "run/bake/restart-etcd").exists()
    assert guest.insert().stdout == ""


def test_the_operator_takes_no_part_in_a_later_renewal(guest: Guest) -> None:
    """A live change updates the node's copy of its seed, so that the next seed is compared with it."""
    guest.bake(renew=False, nodes=3)
    guest.insert()
    guest.bake(nodes=3)
    assert "new certificates applied" in guest.insert().stdout
    assert guest.calls() == RESTART_FIREWALL + REPORT * 2
    assert "PRIVATE KEY" not in (guest.root / "var/lib/bake/seed").read_text()


def test_an_etcd_option_restarts_etcd(guest: Guest) -> None:
    guest.bake(renew=False, **OPTION)
    assert "new configuration applied" in guest.insert().stdout
    assert is_applied(guest)
    assert guest.calls() == REPORT + RESTART
    assert (guest.root / "run/bake/restart-etcd").exists()


def test_readers_of_the_client_key_change_live(guest: Guest) -> None:
    guest.bake(renew=False, **READERS)
    guest.insert()
    assert is_applied(guest)
    assert guest.calls() == "daemon-reload\n--no-block restart etcd-access.service\n" + REPORT


def test_etcd_restarts_if_authentication_is_enabled(guest: Guest) -> None:
    guest.bake(renew=False, **AUTH)
    guest.insert()
    assert is_applied(guest)
    assert guest.calls() == "daemon-reload\n--no-block restart etcd-promote.service\n" + REPORT + RESTART
    modes = {name: (guest.root / name).stat().st_mode & 0o777 for name in ("etc/etcd/auth.json", "etc/etcd/bake.env")}
    assert modes == {"etc/etcd/auth.json": 0o644, "etc/etcd/bake.env": 0o600}
    assert (guest.root / "usr/libexec/bake/etcd-auth").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "settings",
    [
        {"firewall": {"kind": "iptables"}}, {"install": {"packages": ["etcd-server", "etcd-client"]}},
        {"network": {"dns": ["192.168.20.53"]}}, {"pki": {"permissions": "acl"}},
    ],
    ids=str,
)  # fmt: skip
def test_other_changes_wait_for_a_reboot(guest: Guest, settings: dict[str, Any]) -> None:
    before = {path: (guest.root / path.lstrip("/")).read_text() for path in guest.written_files()}
    guest.bake(renew=False, **settings)
    assert 'phase=waiting detail="a new seed takes effect at the next boot"' in guest.insert().stdout
    assert not guest.off.exists()
    assert guest.calls() == ""
    assert all((guest.root / path.lstrip("/")).read_text() == text for path, text in before.items())


def test_a_file_that_vanishes_waits_for_a_reboot(guest: Guest) -> None:
    guest.bake(renew=False, **AUTH)
    guest.insert()
    guest.bake(renew=False)
    assert "takes effect at the next boot" in guest.insert().stdout


def test_an_unknown_network_config_is_unchanged_only_if_certificates_are_new(guest: Guest) -> None:
    (guest.root / "var/lib/bake/network-config").unlink()
    guest.bake()
    assert "new certificates applied" in guest.insert().stdout
    guest.bake(renew=False, nodes=3)
    assert "takes effect at the next boot" in guest.insert().stdout


def test_a_node_without_a_copy_of_its_seed_waits_for_a_reboot(guest: Guest) -> None:
    (guest.root / "var/lib/bake/seed").unlink()
    guest.bake()
    assert "takes effect at the next boot" in guest.insert().stdout


def test_another_order_of_the_seed_writes_and_restarts_nothing(guest: Guest, picture: Picture) -> None:
    before = picture(guest.root / "etc")
    data = yaml.safe_load(guest.seed("user-data"))
    data = {**dict(reversed(data.items())), "write_files": data["write_files"][::-1]}
    (guest.store.folder / "etcd1/user-data").write_text("#cloud-config\n" + yaml.safe_dump(data, sort_keys=False))
    edit(guest, "meta-data", guest.instance(), f"etcd1-{os.urandom(8).hex()}")
    assert "phase=settled" in guest.insert().stdout
    assert picture(guest.root / "etc") == before
    assert is_applied(guest)
    assert guest.calls() == REPORT


def test_the_new_seeds_table_decides(guest: Guest) -> None:
    edit_seed(guest, "OnCalendar=*:0/10", "OnCalendar=*:0/5")
    edit_seed(guest, '{"match": "/etc/systemd/system/etcd-audit.timer", "level": "live"',
                     '{"match": "/etc/systemd/system/etcd-audit.timer", "level": "restart"')  # fmt: skip
    guest.insert()
    assert is_applied(guest)
    assert guest.calls() == "daemon-reload\n--no-block restart etcd-audit.timer\n" + REPORT + RESTART


@pytest.mark.parametrize("damage", ["no: [yaml", "{}", "write_files: 7", "#cloud-config\n"])
def test_a_damaged_seed_changes_nothing(guest: Guest, damage: str, picture: Picture) -> None:
    guest.bake()
    (guest.store.folder / "etcd1/user-data").write_text(damage)
    before = state(guest, picture)
    done = guest.insert()
    assert done.returncode == 1
    assert re.search('phase=waiting detail="the seed in the drive (is damaged|belongs to another)', done.stdout)
    assert state(guest, picture) == before


def test_access_rights_are_kept(guest: Guest) -> None:
    """An administrator may have given a file another mode. A new mode in the seed overrides it."""
    (guest.root / "etc/etcd/etcd.conf").chmod(0o640)
    guest.bake(renew=False, **OPTION)
    guest.insert()
    assert (guest.root / "etc/etcd/etcd.conf").stat().st_mode & 0o777 == 0o640
    edit_seed(guest, '/etc/etcd/etcd.conf\n  permissions: "0600"', '/etc/etcd/etcd.conf\n  permissions: "0400"')
    guest.insert()
    assert (guest.root / "etc/etcd/etcd.conf").stat().st_mode & 0o777 == 0o400


def test_a_deleted_file_is_written_with_the_seeds_mode(guest: Guest) -> None:
    (guest.root / "etc/etcd/bake.env").rename(guest.root / "env")
    guest.bake(renew=False, nodes=3)
    (guest.root / "env").rename(guest.root / "etc/etcd/bake.env")
    (guest.root / "usr/libexec/bake/node.py").unlink()
    edit_seed(guest, '"""This node\'s settings', '"""The node\'s settings')
    guest.insert()
    assert is_applied(guest)
    assert (guest.root / "usr/libexec/bake/node.py").stat().st_mode & 0o777 == 0o644


def test_a_new_certificate_gets_the_access_of_the_peer_certificate(guest: Guest) -> None:
    (guest.pki / "etcd-peer.pem").chmod(0o400)
    text = guest.written_files()["/etc/etcd/pki/etcd-ca.pem"]
    entry = '- path: /etc/etcd/pki/{}.pem\n  permissions: "0644"\n  content: |\n'
    body = "".join(f"    {line}\n" for line in text.splitlines())
    edit_seed(guest, entry.format("etcd-server"), entry.format("etcd-other-ca") + body + entry.format("etcd-server"))
    guest.insert()
    assert is_applied(guest)
    assert (guest.pki / "etcd-other-ca.pem").stat().st_mode & 0o777 == 0o400


def systemctl(guest: Guest, old: str, new: str) -> None:
    program = guest.root.parent / "bin/systemctl"
    assert old in program.read_text()
    program.write_text(program.read_text().replace(old, new))


def test_a_firewall_that_does_not_restart_is_reported_and_tried_again(guest: Guest) -> None:
    systemctl(guest, "*) echo", '"restart etcd-firewall.service") exit 1 ;;\n    *) echo')
    before = (guest.root / "var/lib/bake/configured").read_text()
    guest.bake(renew=False, nodes=3)
    done = guest.insert()
    assert done.returncode == 1
    assert 'phase=failed detail="etcd-firewall.service did not restart"' in done.stdout
    assert (guest.root / "var/lib/bake/configured").read_text() == before
    systemctl(guest, '"restart etcd-firewall.service") exit 1 ;;', "")
    assert "phase=settled" in guest.insert().stdout
    assert is_applied(guest)


def test_a_booting_node_waits_for_no_unit(guest: Guest) -> None:
    """A unit may be ordered after apply-seed.service. etcd starts later, and starts these units."""
    systemctl(guest, "echo running", "echo starting; exit 1")
    systemctl(guest, "echo active", "echo inactive; exit 3")
    guest.bake(renew=False, nodes=3, **READERS)
    assert "phase=settled" in guest.insert().stdout
    assert guest.calls().splitlines() == [
        "daemon-reload", "--no-block try-restart etcd-firewall.service", "--no-block try-restart etcd-access.service",
    ]  # fmt: skip


# --- interruption -----------------------------------------------------------------------------------------------

# Kills apply-seed with SIGKILL just before its NUMBERth change of a file or call of a program.
KILLER = """
import os, runpy, signal, sys
number, script = int(sys.argv[1]), sys.argv[2]
changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.utime", "os.setxattr",
           "shutil.rmtree", "ctypes.dlsym", "subprocess.Popen"}
def count(event, details):
    global number
    if event in changes or event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        number -= 1
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.path.insert(0, os.path.dirname(script))
sys.addaudithook(count)
runpy.run_path(script, run_name="__main__")
"""
KILLED = -9
EVERYTHING = {**FIREWALL, **OPTION, **READERS, **AUTH, "nodes": 3}


def insert_and_kill(guest: Guest, number: int) -> subprocess.CompletedProcess[str]:
    return guest.insert(sys.executable, "-B", "-c", KILLER, str(number))


def state(guest: Guest, picture: Picture) -> dict[str, tuple[object, ...]]:
    """Return modes and contents of the node's files."""
    found = picture(guest.root)
    return {path: (mode, content) for path, (mode, _, content) in found.items() if not path.startswith("run/")}


def put_seed(guest: Guest, seed: Mapping[str, str]) -> None:
    for name, text in seed.items():
        (guest.store.folder / "etcd1" / name).write_text(text)


def number_of_changes(guest: Guest, folder: Path) -> int:
    """Return how many changes an uninterrupted run makes."""
    low, high = 0, 1024
    while low < high:
        middle = (low + high) // 2
        done = insert_and_kill(guest.clone(folder / f"count{middle}"), middle)
        low, high = (middle + 1, high) if done.returncode == KILLED else (low, middle)
    return low


def test_an_interruption_at_any_step_is_completed_by_the_next_run(
    guest: Guest, tmp_path: Path, picture: Picture
) -> None:
    guest.bake(change=lambda found: found.advanced(), **EVERYTHING)
    whole = guest.clone(tmp_path / "whole")
    assert "phase=settled" in whole.insert().stdout
    assert is_applied(whole)
    wanted, calls = state(whole, picture), whole.calls().splitlines()
    total = number_of_changes(guest, tmp_path)
    assert total > 100

    def interrupt_and_repeat(number: int) -> None:
        twin = guest.clone(tmp_path / f"at{number}")
        before = (twin.root / "var/lib/bake/configured").read_text().strip()
        assert insert_and_kill(twin, number).returncode == KILLED
        assert all(read_whole(twin, whole, guest, path) for path in guest.written_files()), number
        if (twin.root / "var/lib/bake/configured").read_text().strip() != before:
            assert (twin.root / "run/bake/restart-etcd").exists(), "the new id may be reported before etcd restarts"
        assert twin.insert().returncode == 0
        assert state(twin, picture) == wanted, number
        assert set(calls) <= set(twin.calls().splitlines()), number
        assert (twin.root / "run/bake/restart-etcd").exists()
        shutil.rmtree(twin.root.parent)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(interrupt_and_repeat, range(total)))) == total


def read_whole(twin: Guest, new: Guest, old: Guest, path: str) -> bool:
    """Return whether a file is as before or as after the run, and nothing in between."""
    mine, *others = ((each.root / path.lstrip("/")) for each in (twin, new, old))
    contents = [path.read_bytes() if path.exists() else None for path in (mine, *others)]
    return contents[0] in contents[1:]


@pytest.mark.parametrize("after", ["the old seed", "another seed"])
def test_another_seed_after_an_interruption_is_applied_as_a_whole(
    guest: Guest, tmp_path: Path, picture: Picture, after: str
) -> None:
    """The interrupted run has written files that are the same in the node's last seed and in the seed after it."""
    old = {name: guest.seed(name) for name in ("user-data", "meta-data", "network-config")}
    guest.bake(renew=False, **EVERYTHING)
    middle = {name: guest.seed(name) for name in old}
    total = number_of_changes(guest, tmp_path)
    put_seed(guest, old)
    if after == "another seed":
        edit_seed(guest, "OnCalendar=*:0/10", "OnCalendar=*:0/5")
    last = {name: guest.seed(name) for name in old}
    whole = guest.clone(tmp_path / "whole")
    whole.insert()
    wanted = state(whole, picture)
    for number in range(0, total, 3):
        twin = guest.clone(tmp_path / f"at{number}")
        put_seed(twin, middle)
        assert insert_and_kill(twin, number).returncode == KILLED
        if (twin.root / "var/lib/bake/seed").read_bytes() != (guest.root / "var/lib/bake/seed").read_bytes():
            continue  # the node has already recorded this seed as its last seed
        put_seed(twin, last)
        done = twin.insert()
        assert done.returncode == 0, done.stdout
        assert is_applied(twin), number
        assert state(twin, picture) == wanted, number


def test_a_restart_of_etcd_is_not_forgotten_by_an_interruption(guest: Guest) -> None:
    """The interrupted run has exchanged the CAs, which the next run compares with the disk."""
    guest.bake(renew=False, change=lambda found: found.advanced())
    ca, number = guest.certificates()["etcd-ca.pem"], 0
    while guest.certificates()["etcd-ca.pem"] == ca:
        number += 1
        (guest.root / "var/lib/bake/applying").unlink(missing_ok=True)
        insert_and_kill(guest, number)
    assert not (guest.root / "run/bake/restart-etcd").exists()
    assert json.loads((guest.root / "var/lib/bake/applying").read_text())[0] == "restart"
    guest.insert()
    assert (guest.root / "run/bake/restart-etcd").exists()
    assert GUEST.exists()
