"""Fixtures of the loopback clusters: etcd's programs, the base image, and addresses for each test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from generator.image.base import cache_folder, default_image
from tests.assembly.miniature import Miniature, Tools, bake_miniature
from tests.assembly.nspawn_lab import extract_root

_numbers = count(1)


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    """The programs etcd and etcdctl from $BAKE_ETCD_BIN, or from the base image, which is built if necessary."""
    if stated := os.environ.get("BAKE_ETCD_BIN"):
        return Path(stated)
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr))
    assert image.bin_dir is not None
    return image.bin_dir


@pytest.fixture(scope="session")
def root() -> Path:
    """The root file system of the base image. All booted nodes share it read-only."""
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr))
    assert image.root_tar is not None
    return extract_root(image.root_tar, image.root_tar.with_name("root"))


PROGRAMS = Path(__file__).parents[2] / "build/programs/usr"  # scripts/setup unpacks programs there


@pytest.fixture(scope="session")
def postgresql() -> Path:
    """The folder with the programs of PostgreSQL."""
    places = (PROGRAMS / "lib/postgresql", Path("/usr/lib/postgresql"))
    found = [folder for place in places for folder in sorted(place.glob("*/bin")) if (folder / "initdb").exists()]
    if not found:
        pytest.fail("PostgreSQL is not installed: run scripts/setup --dev")
    return found[0]


@pytest.fixture
def cluster_of(bin_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Miniature]]:
    """Return a function that makes clusters, each in a separate loopback subnet. They stop after the test."""
    clusters: list[Miniature] = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

    def make(nodes: int, **settings: Any) -> Miniature:
        subnet = f"127.{100 + worker}.{next(_numbers)}.0/24"
        folder = tmp_path / str(len(clusters))
        folder.mkdir()
        clusters.append(bake_miniature(folder, subnet, nodes, Tools(bin_dir=bin_dir), **settings))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.stop()
