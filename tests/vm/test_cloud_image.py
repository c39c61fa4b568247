"""`--image`: nodes on a stock cloud image, which boots through its boot loader and installs etcd."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from generator.image.base import BootImage
from tests.vm.conftest import Lab, Run, command_line

Up = Callable[..., Run]


@pytest.fixture
def up(lab: Lab, stock_image: Path, tmp_path: Path) -> Iterator[Up]:
    """Return `up(profile, **settings)`, which boots a node on the stock image, waits for the node and verifies it."""
    runs = []

    def start(profile: str, **settings: object) -> Run:
        config = tmp_path / "cluster.yaml"
        config.write_text(yaml.safe_dump({"apiVersion": "bake/v1", "nodes": 1, **settings}))
        run = command_line(lab, "cloud", tmp_path / "out")
        runs.append(run)
        run("up", "--profile", profile, "--config", config, "--image", stock_image, "--wait", 900)
        return run

    yield start
    for run in runs:
        run("destroy", "--yes")


@pytest.fixture(scope="module")
def release(base_image: BootImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tarball like etcd's release tarballs, with the programs of the base image."""
    assert base_image.bin_dir is not None
    path = tmp_path_factory.mktemp("release") / "etcd-v3.5-linux-amd64.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for program in ("etcd", "etcdctl", "etcdutl"):
            archive.add(base_image.bin_dir / program, f"etcd-v3.5-linux-amd64/{program}")
    return path


def test_a_node_with_bios_installs_its_packages(up: Up) -> None:
    up("debian")("verify")


def test_a_node_with_uefi_unpacks_the_archive_from_its_seed(up: Up, release: Path) -> None:
    digest = hashlib.sha256(release.read_bytes()).hexdigest()
    install = {"archive": str(release), "sha256": digest}
    up("rhel", install=install, vm={"firmware": "efi", "memory": 1024, "disk": 8})("verify")
