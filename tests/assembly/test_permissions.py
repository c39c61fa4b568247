"""Both settings of `pki.permissions` with real files: after any change of modes and ACLs, etcd can read its keys."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from generator.plan import ClusterPlan
from generator.seed.first_boot import first_boot_commands
from generator.seed.guest_files import _unit, access_commands
from generator.seed.guest_paths import PKI_DIR

pytestmark = pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="other users need root")
KEY = "etcd-server.key"
# In these tests, the user `daemon` takes the place of etcd. The commands are changes that an
# administrator or cloud-init may make.
DEEDS = ("chmod 0600 {}", "chmod 0400 {}", "chmod 0640 {}", "setfacl -m u:daemon:r {}", "setfacl -b {}")
Plan = Callable[..., ClusterPlan]


@pytest.fixture
def folder(plan: Plan) -> Iterator[Path]:
    """A node's key folder after cloud-init and bootcmd. All users can open its parent folders.

    The folder is not in tmp_path, because each start of pytest closes the folder above tmp_path to other users.
    """
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield make_folder(Path(place) / "conf" / "pki")


def make_folder(pki: Path) -> Path:
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


def run(command: str, **env: str) -> None:
    subprocess.run(["/bin/sh", "-euc", command], check=True, env=os.environ | env)


def set_up(plan: ClusterPlan, folder: Path) -> None:
    for line in first_boot_commands(plan):
        if str(PKI_DIR) in line and "restorecon" not in line:
            run(here(line, folder))


def start(plan: ClusterPlan, folder: Path) -> None:
    """Set the permissions as etcd-access.service does before each start of etcd."""
    files = {name: folder / name for name in ("permit", "snapshot", "snapshot_record")}
    unit = _unit("etcd-access.service", commands=tuple(access_commands(plan.spec)), **files).data.decode()
    (command,) = re.findall(r"^ExecStart=/bin/sh -euc '([^']*)'$", unit, re.MULTILINE)
    run(here(command.replace("$$", "$"), folder))


def can_read(user: str, path: Path) -> bool:
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "cat", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("way", ["owner", "acl"])
def test_etcd_alone_reads_every_file(way: str, plan: Plan, folder: Path) -> None:
    set_up(plan(pki={"permissions": way}), folder)
    for path in folder.iterdir():
        assert (can_read("daemon", path), can_read("nobody", path)) == (True, False), path


@pytest.mark.parametrize("way", ["owner", "acl"])
def test_the_folder_is_roots_and_lets_in_etcds_user_alone(way: str, plan: Plan, folder: Path) -> None:
    set_up(plan(pki={"permissions": way}), folder)
    assert (folder.stat().st_uid, folder.stat().st_gid) == (0, 0)
    assert acl_of(folder) == ["user::rwx", "user:daemon:--x", "group::---", "mask::--x", "other::---"]


def acl_of(path: Path) -> list[str]:
    done = subprocess.run(["getfacl", "-cp", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("way", ["owner", "acl"])
@pytest.mark.parametrize("deed", ["chmod 0700 {}", "chmod 0777 {}", "setfacl -b {}", "setfacl -m u:nobody:rx {}"])
def test_etcds_next_start_heals_what_was_done_to_the_folder(way: str, deed: str, plan: Plan, folder: Path) -> None:
    wanted = plan(pki={"permissions": way})
    set_up(wanted, folder)
    run(deed.format(folder))
    start(wanted, folder)
    assert acl_of(folder) == ["user::rwx", "user:daemon:--x", "group::---", "mask::--x", "other::---"]
    assert (can_read("daemon", folder / KEY), can_read("nobody", folder / KEY)) == (True, False)


def test_a_chmod_of_the_folder_locks_etcd_out_until_then(plan: Plan, folder: Path) -> None:
    set_up(plan(), folder)
    run(f"chmod 0700 {folder}")
    assert not can_read("daemon", folder / KEY)


@pytest.mark.parametrize("way", ["owner", "acl"])
def test_readers_read_the_clients_certificate_and_key_and_no_other_key(way: str, plan: Plan, folder: Path) -> None:
    """If a reader's account does not exist on the node, the other readers still get access."""
    wanted = plan(pki={"permissions": way}, access={"readers": ["nosuchuser", "games", "news"]})
    set_up(wanted, folder)
    assert not any(can_read(reader, folder / "etcd-client.key") for reader in ("games", "news"))
    for _ in range(2):
        start(wanted, folder)
        for reader in ("games", "news"):
            assert all(can_read(reader, folder / f"etcd-{name}") for name in ("ca.pem", "client.pem", "client.key"))
            assert not any(can_read(reader, folder / f"etcd-{name}.key") for name in ("server", "peer"))
        for path in folder.iterdir():
            assert (can_read("daemon", path), can_read("nobody", path)) == (True, False), path
    owner = {path.stat().st_uid for path in folder.glob("*.key")}
    assert owner == {pwd.getpwnam("daemon" if way == "owner" else "root").pw_uid}


def test_who_is_no_longer_a_reader_is_kept_out(plan: Plan, folder: Path) -> None:
    wanted = plan(access={"readers": ["games"]})
    set_up(wanted, folder)
    start(wanted, folder)
    assert can_read("games", folder / "etcd-client.key")
    start(plan(), folder)
    assert not can_read("games", folder / "etcd-client.key")


def test_without_acls_the_folder_is_open_to_etcds_group(plan: Plan, folder: Path) -> None:
    """A cloud image may have no setfacl, and a node without a network cannot install it."""
    programs = folder.parent / "bin"
    programs.mkdir()
    (programs / "setfacl").write_text("#!/bin/sh\necho not supported >&2\nexit 1\n")
    (programs / "setfacl").chmod(0o755)
    for line in first_boot_commands(plan()):
        if str(PKI_DIR) in line and "restorecon" not in line:
            run(here(line, folder), PATH=f"{programs}:{os.environ['PATH']}")
    assert (folder.stat().st_uid, oct(folder.stat().st_mode & 0o777)) == (0, "0o750")
    assert (can_read("daemon", folder / KEY), can_read("nobody", folder / KEY)) == (True, False)


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
    """For this reason, `owner` is the default."""
    set_up(plan(pki={"permissions": "acl"}), folder)
    assert shutil.which("setfacl")
    assert (folder / KEY).stat().st_mode & 0o777 == 0o640  # with an ACL, the group bits are the mask
    run(f"chmod 0600 {folder / KEY}")
    assert not can_read("daemon", folder / KEY)
