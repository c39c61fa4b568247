"""A change that needs a reboot is taken back before the reboot, on a booted node: its next boot needs no seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.operations.running.applied_seeds import WAITS
from tests.assembly.change_lab import ChangeLab

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODE = "etcd1"


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLab]:
    work = tmp_path_factory.mktemp("taken-back")
    (work / "first.yaml").write_text("network: {dns: [192.0.2.1]}\n")
    with ChangeLab.booted(root, work, "--config", str(work / "first.yaml")) as cluster:
        yield cluster


def dns(cluster: ChangeLab, address: str) -> tuple[str, str]:
    return "--config", cluster.spec_file(f"nodes: 1\nnetwork: {{dns: [{address}]}}\n")


def seed_id(cluster: ChangeLab) -> str:
    return (cluster.store.folder / NODE / "meta-data").read_text()


@pytest.mark.parametrize("is_older", [False, True], ids=["apply-seed disables cloud-init", "older apply-seed"])
def test_the_node_boots_as_the_same_member_without_cloud_init(cluster: ChangeLab, is_older: bool) -> None:
    """An older apply-seed does not run again before the boot, so bake reboots the node with the seed in its drive."""
    member, applied, engine = cluster.ask("etcd.members()"), seed_id(cluster), cluster.engine()
    off = "ls /etc/cloud/cloud-init.disabled"
    assert cluster.bake(*dns(cluster, "192.0.2.2")).code == 0  # `bake apply` is killed before it restarts the VM
    engine.insert_seed(NODE)
    cluster.wait_until(lambda: WAITS in cluster.lab.console(NODE))
    assert cluster.lab.shell(NODE, off, check=False).stdout == ""
    if is_older:
        cluster.lab.shell(NODE, "rm /run/bake/waits-for-boot")

    steps = cluster.change("apply", *dns(cluster, "192.0.2.1"))
    assert seed_id(cluster) == applied
    assert steps in ([[("update", NODE)]] if is_older else [[], [("update", NODE)]])
    assert cluster.lab.shell(NODE, off).stdout
    assert not engine.machines()[NODE].has_seed

    engine.restart(NODE)
    cluster.lab.take_out(NODE)
    cluster.lab.wait_for("settled", NODE, timeout=120)
    assert "phase=cloud-init" not in cluster.lab.console(NODE)
    assert cluster.ask("etcd.members()") == member
    assert "192.0.2.1" in cluster.lab.shell(NODE, "cat /var/lib/bake/network-config").stdout
