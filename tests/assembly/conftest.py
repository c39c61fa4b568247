"""Where the parts of a loopback cluster come from: etcd's programs, the shells, addresses for each test."""

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
    """etcd and etcdctl: those in $BAKE_ETCD_BIN, else the base image's, which is built if need be."""
    if stated := os.environ.get("BAKE_ETCD_BIN"):
        return Path(stated)
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr))
    assert image.bin_dir is not None
    return image.bin_dir


@pytest.fixture(scope="session")
def root() -> Path:
    """The base image's root file system, shared read-only by all booted nodes."""
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr))
    assert image.root_tar is not None
    return extract_root(image.root_tar, image.root_tar.with_name("root"))


@pytest.fixture
def cluster_of(bin_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Miniature]]:
    """Makes clusters, each in a loopback subnet of its own, and switches them off in the end."""
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
