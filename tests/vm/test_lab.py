"""`scripts/lab` starts quickly, is private, and leaves nothing when it stops. Each test has a separate lab."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Lab

PRIVATE = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run")
NSPAWN = {"netns", "systemd"}  # folders that `ip netns` and systemd-nspawn create in /run


def machine() -> tuple[object, ...]:
    """Return everything that a lab could leave: mounts, interfaces, and names in libvirt's folders.

    Another worker of pytest-xdist may boot nspawn nodes meanwhile, with network namespaces in /run/netns. A lab has no
    network namespace with a name.
    """
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " /run/netns" not in line]
    names = {path: sorted(set(os.listdir(path)) - NSPAWN) for path in PRIVATE if Path(path).exists()}  # noqa: PTH208
    return mounts, sorted(Path("/sys/class/net").iterdir()), names


@pytest.fixture
def own(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Lab]:
    tool("libvirtd")
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    lab = Lab(tmp_path / "state" / "lab")
    before = machine()
    yield lab
    if lab.folder.exists():
        lab.run("stop")
    assert machine() == before
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(["pgrep", "-a", "libvirtd"], text=True, capture_output=True, check=False).stdout
    assert str(tmp_path) not in running


def test_start_runs_once_and_stop_ends_it(own: Lab) -> None:
    own.run("start")
    pid = own.process_id()
    own.run("start")
    assert own.process_id() == pid
    assert "running" in own.run("status").stdout
    own.run("stop")
    own.run("stop")
    assert own.run("status", check=False).returncode == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_exec_hands_over_words_folder_environment_and_exit_code(own: Lab, tmp_path: Path) -> None:
    own.run("start")
    script = 'echo "$1|$PWD|$LIBVIRT_DEFAULT_URI|$HOME"; exit 7'
    result = own.run("exec", "--", "sh", "-c", script, "sh", "a b  'c", check=False)
    assert result.stdout == f"a b  'c|{Path.cwd()}|qemu:///system|{os.environ['HOME']}\n"
    assert result.returncode == 7


def test_its_network_and_files_are_its_own(own: Lab) -> None:
    own.run("start")
    assert own.run("exec", "ls", "/sys/class/net").stdout == "lo\n"
    assert own.run("exec", "virsh", "list", "--all", "--name").stdout.strip() == ""
    own.run("exec", "touch", *(f"{folder}/mark-of-the-lab" for folder in PRIVATE))
    assert [folder for folder in PRIVATE if Path(folder, "mark-of-the-lab").exists()] == []


def test_stop_ends_vms_and_detached_processes(own: Lab, tmp_path: Path) -> None:
    own.run("start")
    own.run("exec", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
    definition = tmp_path / "state" / "lab" / "vm.xml"
    definition.write_text(
        "<domain type='qemu'><name>guest-of-the-lab</name><memory unit='MiB'>64</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    own.run("exec", "virsh", "create", definition)
    assert subprocess.run(["pgrep", "-f", "guest=guest-of-the-lab"], check=False).returncode == 0
    own.run("stop")
    assert subprocess.run(["pgrep", "-f", "guest=guest-of-the-lab|sleep 1000"], check=False).returncode == 1


def test_a_killed_lab_starts_again(own: Lab) -> None:
    own.run("start")
    pid = own.process_id()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while own.run("status", check=False).returncode == 0:  # the lab ends some time after the kill
        assert time.monotonic() < deadline
        time.sleep(0.02)
    own.run("start")
    assert own.process_id() != pid
    own.run("exec", "virsh", "uri")


def test_two_starts_at_once_make_one_lab(own: Lab) -> None:
    environment = {**os.environ, "BAKE_LAB": str(own.folder)}
    environment.pop("BAKE_IN_LAB", None)
    command: list[Any] = [Path(__file__).parents[2] / "scripts" / "lab", "start"]
    starts = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [start.wait(300) for start in starts] == [0, 0, 0]
    shells = subprocess.run(["pgrep", "-P", str(own.process_id())], text=True, capture_output=True, check=True)
    assert len(shells.stdout.split()) == 1  # exactly one libvirtd, a child of the lab's first process


def test_two_labs_do_not_meet(own: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    own.run("start")
    other.run("start")
    other.run("stop")
    assert own.run("exec", "virsh", "uri").stdout.strip() == "qemu:///system"


def test_a_lab_inside_the_lab_is_the_lab(own: Lab) -> None:
    own.run("start")
    inside = own.run("exec", "sh", "-c", f"{Path.cwd()}/scripts/lab start && {Path.cwd()}/scripts/lab exec virsh uri")
    assert inside.stdout.strip() == "qemu:///system"


def test_a_folder_of_somebody_else_is_refused_and_stays(own: Lab) -> None:
    own.folder.mkdir(parents=True)
    (own.folder / "thesis.txt").write_text("unique")
    result = own.run("start", check=False)
    assert result.returncode == 1
    assert "is not a lab's folder" in result.stderr
    own.run("stop")
    assert (own.folder / "thesis.txt").read_text() == "unique"
    (own.folder / "thesis.txt").unlink()
    own.folder.rmdir()
    own.folder.parent.rmdir()


@pytest.mark.parametrize("words", [(), ("dance",)])
def test_wrong_words_are_refused(words: tuple[str, ...], own: Lab) -> None:
    assert own.run(*words, check=False).returncode in (1, 2)


def test_exec_without_a_lab_says_how_to_get_one(own: Lab) -> None:
    result = own.run("exec", "true", check=False)
    assert result.returncode == 1
    assert "lab start" in result.stderr
