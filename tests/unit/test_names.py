"""No node can have the name of another file or folder in the cluster's folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.config.spec import read_spec
from generator.config.values import name, node_name
from generator.errors import UnsignedError
from generator.layout import FOLDER_NAMES
from generator.operations.bake import bake
from generator.operations.seal import seal_files
from generator.plan import plan_cluster
from generator.store.folder import Store

NODES = [{"name": "a"}, {"name": "b"}]


def is_node_name(text: str) -> bool:
    try:
        return node_name(text) == text
    except ValueError:
        return False


def top_level(store: Store) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {node["name"] for node in NODES}


def test_no_file_of_a_cluster_has_a_possible_node_name(now: datetime, tmp_path: Path) -> None:
    """Use a sealed cluster with etcd users, a separate peer CA and a CA change in progress."""
    auth = {"enabled": True, "users": [{"name": "app"}]}
    spec, wrong = read_spec({"nodes": NODES, "auth": auth, "pki": {"peerCa": {"separate": True}}})
    store = Store(tmp_path, "etcd")
    bake(spec, store, now=now, report=print)
    bake(spec, store, now=now, report=print, change=lambda found: found.advanced())
    seal_files(store, plan_cluster(spec), now=now, report=print)
    assert wrong == []
    assert {"pki", "sealed", "identity", "ca-change", "cluster.yaml", "manifest.json"} <= top_level(store)
    assert [name for name in top_level(store) if is_node_name(name)] == []


def test_no_request_has_a_possible_node_name(plan: Callable[..., Any], now: datetime, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(pki.create_authority(plan(), now=now).cert_pem)
    spec, wrong = read_spec({"nodes": NODES, "pki": {"ca": {"certificate": str(tmp_path / "ca.pem")}}})
    store = Store(tmp_path / "out", "etcd")
    with pytest.raises(UnsignedError):
        bake(spec, store, now=now, report=print)
    assert wrong == []
    assert "requests" in top_level(store)
    assert [name for name in top_level(store) if is_node_name(name)] == []


def test_reserved_names_are_otherwise_valid_names() -> None:
    """The rule is only for nodes: a cluster can have these names."""
    assert all(name(reserved) for reserved in FOLDER_NAMES)
