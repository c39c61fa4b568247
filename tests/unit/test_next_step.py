"""The steps that `bake` suggests after a bake: commands to copy, for the engine of the cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator.cli.output import next_step
from generator.operations.baked_cluster import open_cluster
from generator.operations.seal import seal_files
from generator.store.folder import Store

Bake = Callable[..., Any]
INCUS = "engine: incus\nnodes: 1\nnetwork: {mode: bridge, bridge: br0}\n"


def commands(result: Any) -> list[str]:
    """Return the commands on stderr, each on a line of its own."""
    assert result.code == 0, result.err
    return [line.strip() for line in result.err.splitlines() if line.startswith("  bake ")]


def sealed() -> None:
    cluster = open_cluster(Store(Path("out"), "etcd"))
    seal_files(cluster.store, cluster.plan, now=datetime.now(UTC), report=print)


@pytest.fixture
def without_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_step, "find_spec", lambda _name: None)


@pytest.fixture
def with_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_step, "find_spec", lambda _name: object())


@pytest.mark.usefixtures("with_libvirt")
def test_a_new_cluster_is_booted(bake: Bake) -> None:
    result = bake("--nodes", 1, "--name", "prod", "--out", "other")
    out = Path("other").absolute()
    assert commands(result) == [f"bake up --name prod --out {out}", f"bake seal --name prod --out {out}"]
    assert "to boot the VMs with libvirt" in result.err
    again = bake("--nodes", 1, "--name", "prod", "--out", "other")
    assert commands(again) == commands(result)
    assert again.err.startswith("Nothing changed.")


@pytest.mark.usefixtures("without_libvirt")
def test_without_libvirt_the_isos_are_attached_by_hand(bake: Bake) -> None:
    result = bake("--nodes", 1)
    assert commands(result) == ["bake seal"]
    assert "Next, attach each ISO to its VM as a CD-ROM (docs/how-to/attach-isos.md)" in result.err
    assert (Path(next_step.__file__).parents[3] / "docs/how-to/attach-isos.md").exists()


@pytest.mark.usefixtures("without_libvirt")
def test_incus_needs_no_libvirt(bake: Bake) -> None:
    Path("cluster.yaml").write_text(INCUS)
    result = bake("--config", "cluster.yaml")
    assert commands(result) == ["bake up", "bake seal"]
    assert "to boot the containers with Incus" in result.err


@pytest.mark.usefixtures("with_libvirt")
def test_a_running_cluster_is_changed(bake: Bake) -> None:
    bake("--nodes", 1)
    sealed()
    unchanged = bake("--nodes", 1)
    assert (commands(unchanged), "Nothing changed" in unchanged.err) == ([], True)
    assert commands(bake("--memory", 2048)) == ["bake apply"]
    assert commands(bake("--nodes", 2)) == ["bake apply"]


@pytest.mark.usefixtures("with_libvirt")
def test_a_change_that_no_running_node_can_apply_is_not_rolled_out(bake: Bake) -> None:
    bake("--nodes", 1)
    sealed()
    result = bake("--network-mode", "isolated", "--memory", 2048)
    assert commands(result) == []
    assert "\nNo running node can apply this change. Next, run `bake down`, `bake` with the change, " in result.err
    assert "insert each node's new ISO" not in result.err
    assert json.loads(bake("--network-mode", "nat", "-o", "json").out)["next"] == []


@pytest.mark.usefixtures("without_libvirt")
def test_a_running_cluster_without_libvirt_is_changed_by_hand(bake: Bake) -> None:
    bake("--nodes", 1)
    sealed()
    result = bake("--nodes", 2)
    assert commands(result) == []
    assert "Next, insert each node's new ISO into the node's drive, one node after the other." in result.err


@pytest.mark.usefixtures("with_libvirt")
def test_an_export_is_run_again(bake: Bake) -> None:
    bake("--nodes", 1)
    Path("cloud.qcow2").write_bytes(b"")
    assert bake("export", "virt-install", "--image", "cloud.qcow2").code == 0
    result = bake("--nodes", 2)
    text = "The export virt-install has the old ISOs. Run `bake export virt-install` again, with the same options as"
    assert (commands(result), f"{text} before.\n" in result.err) == (["bake up", "bake seal"], True)
    assert bake("export", "proxmox", "--image", "/root/cloud.qcow2").code == 0
    text = "The exports proxmox, virt-install have the old ISOs. Run each `bake export TARGET` again, with the same"
    assert bake("--nodes", 3).err.count(text) == 1


@pytest.mark.usefixtures("with_libvirt")
def test_an_export_with_the_bootstrap_permit_is_named_until_it_is_run_again(bake: Bake) -> None:
    bake("--nodes", 1)
    words = ("export", "kubevirt", "--network", "lan", "--image", "https://example.org/cloud.qcow2")
    assert bake(*words).code == 0
    assert bake("export", "proxmox", "--image", "/root/cloud.qcow2").code == 0
    text = "the export kubevirt has the bootstrap permit. Run `bake export kubevirt` again, with the same options as"
    more = " before, and remove the old seed of etcd1 from the engine"
    assert text not in bake().err
    result = bake("seal", "--yes", "-o", "json")
    assert text + more in json.loads(result.out)["warnings"]
    assert bake("seal").err.count(f"warning: {text}{more}") == 1
    assert text[0].upper() + text[1:] + more + ".\n" in bake().err
    assert bake(*words).code == 0
    assert "kubevirt" not in bake("seal").err + bake().err


@pytest.mark.usefixtures("with_libvirt")
def test_json_has_the_commands(bake: Bake) -> None:
    result = bake("--nodes", 1, "-o", "json")
    assert json.loads(result.out)["next"] == ["bake up", "bake seal"]
    assert "bake up" not in result.err
