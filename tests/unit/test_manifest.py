"""`manifest.json` describes a cluster: bake's version, the nodes, and when each certificate expires."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from generator import __version__
from generator.config.spec import read_spec
from generator.operations import certs
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import open_cluster
from generator.operations.seal import seal_files
from generator.store.folder import Store

FIELDS: dict[str, Any] = {"nodes": 2, "auth": {"enabled": True, "users": [{"name": "app1"}]}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out", "etcd")


@pytest.fixture
def baked(store: Store, now: datetime) -> Callable[..., dict[str, Any]]:
    """Return a function that bakes, and returns the manifest."""

    def run(fields: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        make(read_spec(fields or FIELDS)[0], store, now=now, report=print, **more)
        return read(store)

    return run


Baked = Callable[..., dict[str, Any]]


def read(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.folder / "manifest.json").read_bytes())
    return found


def test_it_has_the_version_and_the_nodes(store: Store, baked: Baked) -> None:
    found, plan = baked(), open_cluster(store).plan
    assert [*found] == ["format_version", "cluster", "bake", "nodes", "certificates", "files"]
    assert (found["bake"], found["format_version"]) == (__version__, "1.1")
    assert found["nodes"] == [
        {"name": node.name, "address": str(node.address), "mac": node.mac} for node in plan.nodes
    ]
    macs = [(store.folder / node.name / "network-config").read_text() for node in plan.nodes]
    assert all(one["mac"] in text for one, text in zip(found["nodes"], macs, strict=True))


def test_it_has_the_expiry_that_bake_certs_shows(store: Store, baked: Baked, now: datetime) -> None:
    found = baked()["certificates"]
    listed = [
        (one.owner, str(one.role), f"{one.facts.not_after:%Y-%m-%dT%H:%M:%SZ}")
        for one in certs.entries(open_cluster(store), now=now)
    ]
    assert sorted((owner, role, end) for owner, roles in found.items() for role, end in roles.items()) == sorted(listed)
    assert {"cluster", "operator", "user app1", "etcd1", "etcd2"} <= found.keys()


def test_a_node_has_its_host(baked: Baked) -> None:
    hosts = [{"name": f"h{number}", "uri": f"qemu+ssh://h{number}/system"} for number in (1, 2)]
    found = baked({"nodes": 2, "network": {"mode": "bridge", "bridge": "br0"}, "hosts": hosts})
    assert {one["host"] for one in found["nodes"]} == {"h1", "h2"}


def test_another_bake_changes_nothing(store: Store, baked: Baked) -> None:
    baked()
    before = (store.folder / "manifest.json").stat()
    baked()
    after = (store.folder / "manifest.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_only_the_renewed_certificates_have_another_expiry(baked: Baked, store: Store, now: datetime) -> None:
    before = baked()["certificates"]
    later = now.replace(year=now.year + 1, month=1, day=1)
    make(read_spec(FIELDS)[0], store, now=later, report=print, renew=["etcd2"])
    after = read(store)["certificates"]
    assert {owner for owner in after if after[owner] != before[owner]} >= {"etcd2"}
    assert (after["etcd1"], after["cluster"]) == (before["etcd1"], before["cluster"])


def test_a_seal_keeps_the_facts(store: Store, baked: Baked, now: datetime) -> None:
    before = baked()
    seal_files(store, open_cluster(store).plan, now=now, report=print)
    after = read(store)
    assert "sealed" in after["files"]
    assert {**after, "files": {}} == {**before, "files": {}}


def test_the_manifest_of_an_older_bake_gets_the_facts(
    store: Store, baked: Baked, picture: Callable[[Path], dict[str, Any]]
) -> None:
    new = baked()
    path = store.folder / "manifest.json"
    old = {"format_version": "1.0", "cluster": new["cluster"], "files": new["files"]}
    path.write_text(json.dumps(old, indent=1) + "\n")
    before = picture(store.folder)
    assert baked() == new
    after = picture(store.folder)
    assert {name for name in after if after[name][2] != before[name][2]} == {"manifest.json"}
