"""A VM with a data disk: a new root disk keeps the member, and no wrong disk becomes the member's data.

The cluster has one node, so the node's data disk has the only copy of the data.

All tests use the same cluster and run in the order of this file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from generator.image.base import BootImage
from tests.vm.conftest import Lab, Run, command_line
from tests.vm.test_cluster import etcdctl as etcdctl_of

NAME = "disks"
IMAGES = Path("/var/lib/libvirt/images")  # in the lab


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disks") / "out"


@pytest.fixture(scope="module")
def cache(base_image: BootImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the base image."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "images").mkdir()
    _copy(base_image.disk.parent, folder / "images" / base_image.digest, disk=True)
    return folder


def _copy(old: Path, new: Path, *, disk: bool) -> None:
    """Link the files of an image into another folder, and copy its facts. `disk`: also link the disk."""
    new.mkdir()
    shutil.copy(old / "image.json", new / "image.json")
    facts = json.loads((new / "image.json").read_text())
    for part in ("disk", "kernel", "initrd") if disk else ("kernel", "initrd"):
        (new / facts[part]).symlink_to((old / facts[part]).resolve())


@pytest.fixture(scope="module")
def new_image(cache: Path, base_image: BootImage) -> Callable[..., str]:
    """Return `new_image(stamp)`, which adds a newer image to the cache and returns its digest.

    `etcd`: the content of /usr/bin/etcd.
    """

    def make(stamp: str, *, etcd: str = "") -> str:
        digest = f"{base_image.digest}-{stamp}"
        old, new = cache / "images" / base_image.digest, cache / "images" / digest
        _copy(old, new, disk=False)
        raw, program = new / "disk.raw", new / "program"
        subprocess.run(["qemu-img", "convert", "-O", "raw", old / "disk.qcow2", raw], check=True)
        program.write_text(etcd)
        requests = [f"write {program} /etc/stamp-{stamp}"]
        if etcd:
            requests += ["rm /usr/bin/etcd", f"write {program} /usr/bin/etcd", "sif /usr/bin/etcd mode 0100755"]
        script = new / "requests"
        script.write_text("\n".join(requests) + "\n")
        subprocess.run(["debugfs", "-w", "-f", script, raw], check=True, capture_output=True)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, new / "disk.qcow2"], check=True)
        for left in (raw, program, script):
            left.unlink()
        facts = json.loads((new / "image.json").read_text())
        (new / "image.json").write_text(json.dumps({**facts, "digest": digest, "built": f"20{stamp}-01-01T00:00:00Z"}))
        return digest

    return make


@pytest.fixture(scope="module")
def bake_in_lab(lab: Lab, out: Path, cache: Path) -> Iterator[Run]:
    run = command_line(lab, NAME, out)

    def with_cache(command: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        more = ("--cache", cache) if command in ("up", "apply", "upgrade", "plan") else ()
        return run(command, *words, *more, code=code)

    yield with_cache
    run("destroy", "--yes")


@pytest.fixture(scope="module")
def etcdctl(out: Path, base_image: BootImage, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("as-life")
    (folder / "life").symlink_to(out / NAME)  # the helper of the other tests has the name of its cluster
    return lambda *words: etcdctl_of(folder, base_image, *words)


def members(etcdctl: Callable[..., Any]) -> dict[str, int]:
    return {member["name"]: member["ID"] for member in etcdctl("member", "list")["members"]}


class Machine:
    """A VM of the cluster, and the volumes of its disks."""

    def __init__(self, lab: Lab, connection: Any, node: str) -> None:
        self.connection, self.name = connection, f"{NAME}-{node}"
        self.folder = lab.folder / "lib/images" / f"bake-{NAME}"
        self.data, self.log = self.folder / f"{node}.data.qcow2", self.folder / f"{node}.console.log"

    @property
    def domain(self) -> Any:
        return self.connection.lookupByName(self.name)

    def stop(self) -> None:
        self.domain.shutdown()
        while self.domain.isActive():
            time.sleep(0.2)

    def use_disk(self, path: Path | None, kind: str = "qcow2") -> None:
        """Give the VM another data disk, or none."""
        root = ElementTree.fromstring(self.domain.XMLDesc(2))  # noqa: S314  VIR_DOMAIN_XML_INACTIVE
        devices = root.find("devices")
        assert devices is not None
        for disk in [disk for disk in devices.iterfind("disk") if disk.findtext("serial") == "etcd-data"]:
            devices.remove(disk)
        if path:
            place = IMAGES / path.parent.name / path.name  # where libvirt sees the file
            text = (
                f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{place}'/>"
                "<target dev='vdb' bus='virtio'/><serial>etcd-data</serial></disk>"
            )
            devices.insert(1, ElementTree.fromstring(text))  # noqa: S314
        self.connection.defineXML(ElementTree.tostring(root, encoding="unicode"))

    def wait_for(self, text: str, seconds: float = 600) -> str:
        deadline = time.monotonic() + seconds
        while text not in (said := self.log.read_text(errors="replace")):
            assert time.monotonic() < deadline, said[-3000:]
            time.sleep(0.5)
        return said


@pytest.fixture
def machine(lab: Lab, connection: Any) -> Machine:
    return Machine(lab, connection, "etcd1")


def test_a_node_has_its_data_on_a_disk_of_its_own(
    bake_in_lab: Run, etcdctl: Callable[..., Any], machine: Machine
) -> None:
    bake_in_lab("up", "--nodes", 1, "--data-disk", 2, "--wait", 900)
    for number in range(5):
        etcdctl("put", f"kept{number}", "x" * 10000)
    assert machine.data.exists()


def test_an_upgrade_exchanges_the_root_disk_and_keeps_the_member(
    bake_in_lab: Run, etcdctl: Callable[..., Any], new_image: Callable[..., str], out: Path, machine: Machine
) -> None:
    before = members(etcdctl)
    digest = new_image("27")
    start = time.monotonic()
    result = bake_in_lab("upgrade", "--yes", "--wait", 900, "-o", "json")
    done = json.loads(result.stdout)
    print(result.stderr, f"upgrade: {time.monotonic() - start:.0f} s")
    assert [(step["action"], step["level"]) for step in done["steps"]] == [("update", "replace")]
    assert members(etcdctl) == before
    assert len(etcdctl("get", "kept", "--prefix", "--keys-only")["kvs"]) == 5
    (snapshot,) = (out / f"{NAME}.snapshots").glob("*.db")
    assert snapshot.stat().st_size > 50000
    assert f'image="{digest}"' in machine.domain.XMLDesc().replace("'", '"')
    assert bake_in_lab("plan", "--detailed-exitcode").returncode == 0


def test_an_image_whose_etcd_does_not_start_stops_the_upgrade_and_has_a_way_back(
    bake_in_lab: Run, etcdctl: Callable[..., Any], new_image: Callable[..., str], base_image: BootImage
) -> None:
    before, good, bad = members(etcdctl), f"{base_image.digest}-27", new_image("28", etcd="#!/bin/sh\nexit 1\n")
    told = bake_in_lab("upgrade", "--yes", "--wait", 900, code=1).stderr
    print(told)
    assert "etcd1: etcd does not start: exited 1" in told
    assert f"bake upgrade --to {good}" in told
    assert "snapshot of revision" in told
    done = json.loads(bake_in_lab("upgrade", "--to", good, "--yes", "--wait", 900, "-o", "json").stdout)
    assert len(done["steps"]) == 1
    assert members(etcdctl) == before
    assert bad not in bake_in_lab("plan", "-o", "json").stdout


def test_without_its_data_disk_a_node_does_not_start_etcd(
    bake_in_lab: Run, machine: Machine
) -> None:
    machine.stop()
    machine.use_disk(None)
    machine.domain.create()
    said = machine.wait_for("the data disk is missing")
    assert "phase=failed" in said
    time.sleep(10)
    assert "phase=joining" not in machine.log.read_text(errors="replace")


def test_a_foreign_disk_is_neither_formatted_nor_used(
    bake_in_lab: Run, etcdctl: Callable[..., Any], machine: Machine
) -> None:
    """The disk has a partition table. Afterwards, with its own disk, the node is the same member."""
    foreign = machine.folder / "foreign.raw"
    foreign.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * (64 << 20))
    content = foreign.read_bytes()
    machine.domain.destroy()
    machine.use_disk(foreign, "raw")
    machine.domain.create()
    machine.wait_for("the data disk is not blank")
    machine.domain.destroy()
    assert foreign.read_bytes() == content
    foreign.unlink()
    machine.use_disk(machine.data)
    bake_in_lab("up", "--wait", 900, "--yes")
    assert len(etcdctl("get", "kept", "--prefix", "--keys-only")["kvs"]) == 5
