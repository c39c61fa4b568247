"""The script etcd-data makes a file system on a blank disk, and touches no other disk. The disks are real files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from generator import pki
from generator.plan import DATA_DISK, ClusterPlan
from generator.seed.first_boot import first_boot_commands
from generator.seed.guest_files import Trust, guest_files
from generator.seed.guest_paths import DATA_MOUNT
from tests.unit.guest_root import GUEST

SCRIPT = GUEST / "etcd-data"
SIZE = 64 << 20
LINK = f"virtio-{DATA_DISK}"
CHANGES = {
    "a byte in the first block": (17, b"x"),
    "a partition table": (510, b"\x55\xaa"),
    "a signature at 64 KiB": ((64 << 10) + 64, b"_BHRfS_M"),
    "a LUKS header at 4 MiB": (4 << 20, b"SKUL\xba\xbe"),
    "a RAID superblock at the end": (SIZE - (64 << 10), b"\xfc\x4e\x2b\xa9"),
    "a partition table at the end": (SIZE - 512, b"EFI PART"),
}


class Node:
    """A node with disks in a folder that stands for /dev/disk/by-id."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.link = folder, folder / "run/disk"
        self.programs = folder / "programs"
        for name in ("by-id", "run", "programs"):
            (folder / name).mkdir()
        self.disk = self.attach(LINK)

    def attach(self, link: str, size: int = SIZE) -> Path:
        disk = self.folder / f"{link}.img"
        with disk.open("wb") as file:
            file.truncate(size)
        (self.folder / "by-id" / link).symlink_to(disk)
        return disk

    def detach(self, link: str = LINK) -> None:
        (self.folder / "by-id" / link).unlink()

    def boot(self, name: str = "etcd1", cluster: str = "etcd-0123") -> tuple[int, str]:
        """Run the script as at a boot: /run is empty. Return the exit code and the console."""
        self.link.unlink(missing_ok=True)
        path = f"{self.programs}:/usr/sbin:/sbin:{os.environ['PATH']}"
        env = {
            "PATH": path, "BAKE_NAME": name, "BAKE_PERMIT": cluster, "BAKE_DISKS": str(self.folder / "by-id"),
            "BAKE_DATA_LINK": str(self.link), "BAKE_DISK_SECONDS": "0.3",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-EsS", SCRIPT], env=env, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    def digest(self) -> str:
        return hashlib.sha256(self.disk.read_bytes()).hexdigest()

    def write(self, offset: int, data: bytes) -> None:
        with self.disk.open("rb+") as file:
            file.seek(offset)
            file.write(data)

    def ask(self, request: str, *options: str) -> str:
        """Run a command of debugfs(8) on the disk."""
        command = ["debugfs", *options, "-R", request, str(self.disk)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def is_usable(self) -> bool:
        """Whether the script has linked the disk, and fsck finds a complete file system on it."""
        check = subprocess.run(["e2fsck", "-f", "-n", str(self.disk)], capture_output=True, check=False)
        return self.link.resolve() == self.disk and check.returncode == 0


@pytest.fixture
def node(tmp_path: Path, tool: Callable[[str], str]) -> Node:
    for name in ("mke2fs", "debugfs", "e2fsck"):
        tool(name)
    return Node(tmp_path)


def test_a_disk_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.detach()
    (node.folder / "by-id" / LINK).symlink_to(tmp_path)  # a read of a folder fails, like that of a broken disk
    code, said = node.boot()
    assert code == 1
    assert 'phase=failed detail="cannot read the data disk: Is a directory; etcd does not start"' in said


def test_a_blank_disk_gets_a_file_system_and_every_later_boot_leaves_it_as_it_is(node: Node) -> None:
    code, console = node.boot()
    assert (code, console) == (
        0, 'bake: node=etcd1 phase=disk detail="making a file system on the blank data disk"\n'
    )  # fmt: skip
    assert node.is_usable()
    assert f"Filesystem volume name:   {DATA_DISK}\n" in node.ask("stats -h")
    node.ask(f"write {SCRIPT} kept", "-w")
    before = node.digest()
    assert node.boot() == (0, "")
    assert node.digest() == before
    assert node.ask("cat kept") == SCRIPT.read_text()


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_with_anything_on_it_is_not_formatted(node: Node, change: str) -> None:
    node.write(*CHANGES[change])
    before = node.digest()
    code, console = node.boot()
    assert code == 1
    assert "phase=failed" in console
    assert "the data disk is not blank" in console
    assert node.digest() == before
    assert not node.link.exists()


def test_another_file_system_is_not_mounted(node: Node) -> None:
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", str(node.disk)], check=True)
    before = node.digest()
    assert node.boot()[0] == 1
    assert node.digest() == before


@pytest.mark.parametrize(("name", "cluster"), [("etcd2", "etcd-0123"), ("etcd1", "etcd-4567")])
def test_the_disk_of_another_node_or_cluster_is_refused(node: Node, name: str, cluster: str) -> None:
    node.boot()
    before = node.digest()
    code, console = node.boot(name, cluster)
    assert (code, "belongs to another node or cluster; etcd does not start" in console) == (1, True)
    assert node.digest() == before
    assert not node.link.exists()
    assert node.boot()[0] == 0


def test_a_missing_disk_fails_and_a_disk_that_appears_later_is_used(node: Node) -> None:
    node.detach()
    code, console = node.boot()
    assert (code, f"no disk has the serial {DATA_DISK}" in console) == (1, True)
    assert not node.link.exists()
    node.attach(f"{LINK}-part1")  # a partition of a disk
    assert node.boot()[0] == 1


def test_two_disks_with_the_serial_are_refused(node: Node) -> None:
    node.attach(f"scsi-0QEMU_QEMU_HARDDISK_{DATA_DISK}")
    code, console = node.boot()
    assert (code, "2 disks have the serial" in console) == (1, True)


def test_two_links_to_one_disk_are_one_disk(node: Node) -> None:
    (node.folder / "by-id" / f"scsi-SQEMU_{DATA_DISK}").symlink_to(node.disk)
    assert node.boot()[0] == 0


@pytest.mark.parametrize("written", [b"", b"half a file system"])
def test_a_power_cut_while_the_file_system_is_made_is_repaired_at_the_next_boot(node: Node, written: bytes) -> None:
    """A program in place of mke2fs writes something and dies. Afterwards the disk is as after a power cut."""
    cut = node.programs / "mke2fs"
    cut.write_text(f"#!/bin/sh\nprintf '{written.decode()}' | dd of={node.disk} bs=1 seek=1080 conv=notrunc\nexit 1\n")
    cut.chmod(0o755)
    code, console = node.boot()
    assert (code, "cannot make a file system" in console) == (1, True)
    assert not node.link.exists()
    cut.unlink()
    code, console = node.boot()
    assert (code, "on the unfinished data disk" in console) == (0, True)
    assert node.is_usable()
    assert node.boot() == (0, "")


def test_a_power_cut_before_the_mark_is_removed_makes_the_file_system_again(node: Node) -> None:
    node.boot()
    node.write((SIZE - (1 << 20)), b"bake: making a file system".ljust(4096, b"\0"))
    assert node.boot()[0] == 0
    assert node.is_usable()
    assert node.boot() == (0, "")


@pytest.mark.parametrize("size", [33 << 20, (64 << 20) + 512, (64 << 20) + 4096])
def test_disks_of_odd_sizes(node: Node, size: int) -> None:
    with node.disk.open("rb+") as file:
        file.truncate(0)
        file.truncate(size)
    assert node.boot()[0] == 0
    assert node.is_usable()


@pytest.mark.parametrize("size", [0, 2])
def test_etcd_requires_the_mount_and_the_mount_requires_the_script(
    size: int, plan: Callable[..., ClusterPlan], now: datetime
) -> None:
    """A mount that systemd does not start in a container does not keep etcd from starting there."""
    wanted = plan(vm={"dataDisk": size})
    authority = pki.create_authority(wanted, now=now)
    trust = Trust(identity="0" * 32, ca_pem=authority.cert_pem)
    credentials = next(iter(pki.issue_nodes(wanted, authority, now=now)))
    files = {one.path.name: one.data.decode() for one in guest_files(wanted, wanted.nodes[0], trust, credentials)}
    assert ("\nRequires=var-lib-etcd.mount\nAfter=var-lib-etcd.mount\n" in files["etcd.service"]) is bool(size)
    assert ("etcd-data" in files) is ("etcd-data.service" in files) is (DATA_MOUNT in files) is bool(size)
    if size:
        assert "\nRequires=etcd-data.service\nAfter=etcd-data.service\n" in files[DATA_MOUNT]
        for unit in (DATA_MOUNT, "etcd-data.service"):
            assert "\nConditionVirtualization=!container\n" in files[unit]


def test_the_first_boot_mounts_the_disk_before_it_touches_the_folder(plan: Callable[..., ClusterPlan]) -> None:
    commands = list(first_boot_commands(plan(vm={"dataDisk": 2})))
    mount = next(index for index, line in enumerate(commands) if "start var-lib-etcd.mount" in line)
    touched = [index for index, line in enumerate(commands) if "/var/lib/etcd" in line and "useradd" not in line]
    assert mount < min(touched)
    assert commands[0] == "set -e"
    without = "\n".join(first_boot_commands(plan(vm={"dataDisk": 0})))
    assert "mount" not in without
