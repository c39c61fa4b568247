"""A private libvirt for the test session, and a guest that boots in seconds: a kernel, busybox and a shell script."""

from __future__ import annotations

import ctypes
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from generator.etcd import client as etcd_client
from generator.image.base import BootImage, cache_folder, default_image
from generator.plan import ClusterPlan
from tests.vm.cloud_image import cloud_image

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "lab"
CALL = "from generator.cli import main; main()"
Run = Callable[..., subprocess.CompletedProcess[str]]
CLONE_NEWNET = 0x40000000  # linux/sched.h
_machine = os.open("/proc/self/ns/net", os.O_RDONLY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@dataclass(frozen=True)
class Lab:
    """`scripts/lab` with a separate folder. The tests can open the lab's libvirt socket and disks as files."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt/libvirt-sock"

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "BAKE_IN_LAB"}
        environment["BAKE_LAB"] = str(self.folder)
        command = [SCRIPT, *map(str, words)]
        return subprocess.run(command, check=check, text=True, capture_output=True, env=environment, timeout=600)

    def process_id(self) -> int:
        return int((self.folder / "pid").read_text().split()[0])

    def cut_power(self, domain: str) -> None:
        """Kill QEMU with SIGKILL. libvirt's destroy sends SIGTERM first, and QEMU would flush its caches."""
        pid = (self.folder / "run" / "libvirt" / "qemu" / f"{domain}.pid").read_text().strip()
        self.run("exec", "kill", "-KILL", pid)


def command_words(lab: Lab, name: str, out: Path, command: str, *words: object) -> list[str]:
    """Return the command line of bake for a cluster."""
    common = ("--out", str(out), *(("--name", name) if command != "recover" else ()))
    connect = ("--connect", lab.uri) if command not in ("verify", "backup", "recover") else ()
    given, options = [*map(str, words)], [*common, *connect]
    # What follows the first word of etcdctl's command belongs to etcdctl.
    return [sys.executable, "-c", CALL, command, *(options + given if command == "etcdctl" else given + options)]


def command_line(lab: Lab, name: str, out: Path) -> Run:
    """Return `run`: `run("up", "--nodes", 3)` runs bake for this cluster in a new process in the lab's network."""

    def run(command: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        line = command_words(lab, name, out, command, *words)
        result = subprocess.run(line, text=True, capture_output=True, check=False)
        assert result.returncode == code, f"bake {command}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    return run


def enter_network(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture(scope="session")
def base_image() -> BootImage:
    return default_image(cache_folder(), report=print)


@contextmanager
def machine_network() -> Iterator[None]:
    """Run a block of this thread in the machine's network, because Debian's packages are not reachable from the lab."""
    lab = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    enter_network(_machine)
    try:
        yield
    finally:
        enter_network(lab)
        os.close(lab)


@pytest.fixture(scope="session")
def stock_image() -> Path:
    """A cloud image without bake's changes."""
    with machine_network():
        return cloud_image("stock")


@pytest.fixture(scope="session")
def selinux_image() -> Path:
    """A cloud image that enforces Debian's SELinux policy and has a shell on its console."""
    with machine_network():
        return cloud_image("selinux", "packages.selinux")


@pytest.fixture(scope="session")
def lab(tool: Callable[[str], str], base_image: BootImage) -> Iterator[Lab]:
    for program in ("libvirtd", "qemu-system-x86_64", "qemu-img"):
        tool(program)
    if os.geteuid() != 0:
        pytest.skip("VM tests need root")
    assert base_image.disk.exists()
    for left in (ROOT / "build").glob("test-lab-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():  # a leftover lab whose test session was killed
            Lab(left).run("stop")
    private = Lab(ROOT / "build" / f"test-lab-{os.getpid()}")
    private.run("start")
    try:
        yield private
    finally:
        private.run("stop")
    assert not private.folder.exists()


@pytest.fixture(scope="module", autouse=True)
def lab_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a file that uses the lab, this thread is in the lab's network, so that the tests reach the VMs."""
    items = [item for item in request.session.items if item.path == request.path]
    if not any("lab" in getattr(item, "fixturenames", ()) for item in items):
        yield
        return
    there = os.open(f"/proc/{request.getfixturevalue('lab').process_id()}/ns/net", os.O_RDONLY)
    enter_network(there)
    etcd_client._make_loop.cache_clear()  # the thread of the event loop stays in the network in which it was started
    try:
        yield
    finally:
        enter_network(_machine)
        etcd_client._make_loop.cache_clear()
        os.close(there)


# Prints the records of a node, then executes commands from the console.
INIT = """#!/bin/busybox sh
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
listen() { # to the power button: its first event ends the guest
    insmod /button.ko
    insmod /evdev.ko
    for event in /sys/class/input/event*; do
        [ "$(cat "$event/device/name")" = "Power Button" ] || continue
        exec 4<"/dev/input/${event##*/}" # from here on events are kept
        (dd bs=24 count=1 <&4 >/dev/null 2>&1 && poweroff -f) &
        echo listening
    done
}
exec </dev/ttyS0 >/dev/ttyS0 2>&1
node=$(sed -n "s/^$(cat /sys/class/dmi/id/product_uuid) //p" /nodes)
echo
echo "bake: node=$node phase=configured detail=\\"tiny\\""
while read -r word; do
    echo "you said $word"
    case $word in
        reboot) reboot -f ;;
        off) poweroff -f ;;
        listen) listen ;;
        panic) echo c >/proc/sysrq-trigger ;;
        memory) grep MemTotal /proc/meminfo ;;
    esac
done
"""


def newc(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    archive = b""
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        archive += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return archive


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


@pytest.fixture(scope="session")
def tiny(base_image: BootImage, tmp_path_factory: pytest.TempPathFactory) -> Callable[[ClusterPlan], BootImage]:
    """Return `tiny(plan)`, which makes an image with an empty disk. The initrd identifies the plan's nodes by UUID."""
    assert base_image.root_tar is not None
    with tarfile.open(base_image.root_tar) as root:
        names = {Path(name).name: name for name in root.getnames()}
        busybox = read_member(root, "./usr/bin/busybox")
        button, evdev = (lzma.decompress(read_member(root, names[f"{name}.ko.xz"])) for name in ("button", "evdev"))

    def make(plan: ClusterPlan) -> BootImage:
        folder = tmp_path_factory.mktemp("tiny")
        folders = dict.fromkeys(("bin", "dev", "proc", "sys"), (0o040755, b""))
        nodes = "".join(f"{node.uuid} {node.name}\n" for node in plan.nodes).encode()
        files = {
            "button.ko": (0o100644, button),
            "evdev.ko": (0o100644, evdev),
            "bin/busybox": (0o100755, busybox),
            "init": (0o100755, INIT.encode()),
            "nodes": (0o100644, nodes),
        }
        (folder / "initrd").write_bytes(newc({**folders, **files}))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk", "64M"], check=True)
        return replace(
            base_image,
            disk=folder / "disk",
            virtual_size=64 << 20,
            digest=f"tiny-{plan.name}",
            initrd=folder / "initrd",
            cmdline="console=ttyS0 quiet panic=1 no_timer_check",
        )

    return make


@pytest.fixture(scope="session")
def connection(lab: Lab) -> Any:
    from generator import vm

    return vm.connect(lab.uri)
