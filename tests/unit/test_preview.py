"""A preview returns the history that a bake would write, and writes nothing. A bake records what each seed costs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from generator.config.load import load
from generator.level import Level
from generator.operations.bake import bake
from generator.operations.running.preview import preview
from generator.plan import plan_cluster
from generator.store.folder import Store
from generator.store.seed_history import load_history


def spec_of(**fields: Any) -> Any:
    paths = {key.replace("__", "."): (tuple(key.split("__")), value) for key, value in fields.items()}
    return load(flags=paths).spec


@pytest.fixture
def store(tmp_path: Path, now: datetime) -> Store:
    store = Store(tmp_path / "out", "etcd")
    bake(spec_of(nodes=3), store, now=now, report=print)
    return store


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"nodes": 5}, Level.LIVE),
        ({"nodes": 3, "etcd__tlsMinVersion": "1.3"}, Level.RESTART),
        ({"nodes": 3, "network__dns": ["192.168.20.9"]}, Level.REBOOT),
        ({"nodes": 3, "vm__memory": 2048}, Level.NONE),  # the seed does not contain the VM's memory
    ],
)
def test_a_preview_is_what_a_bake_records(
    store: Store, now: datetime, picture: Callable[[Path], Any], fields: dict[str, Any], level: Level
) -> None:
    spec, running = spec_of(**fields), load_history(store).nodes["etcd1"][-1].seed
    before = picture(store.out)
    seen = preview(plan_cluster(spec), store, now=now, passphrase=None)
    assert picture(store.out) == before
    assert seen.cost("etcd1", running) is level

    bake(spec, store, now=now, report=print)

    made = load_history(store)
    assert made.cost("etcd1", running) is level
    assert {name: made.nodes[name] for name in seen.nodes} == seen.nodes


def test_new_certificates_are_in_a_preview_although_they_are_not_issued_yet(store: Store, now: datetime) -> None:
    running = load_history(store).nodes["etcd2"][-1].seed
    seen = preview(plan_cluster(spec_of(nodes=3, pki__leafDays=90)), store, now=now, passphrase=None)
    assert seen.cost("etcd2", running) is Level.LIVE


def test_a_removed_node_has_no_history(store: Store, now: datetime) -> None:
    assert set(preview(plan_cluster(spec_of(nodes=1)), store, now=now, passphrase=None).nodes) == {"etcd1"}
    bake(spec_of(nodes=1), store, now=now, report=print)
    assert set(load_history(store).nodes) == {"etcd1"}
