"""A cluster of three real VMs: it starts, survives a power cut and a shutdown, and is removed without leftovers.

All tests use the same cluster and run in the order of this file.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generator import vm
from generator.image.base import BootImage
from generator.operations.baked_cluster import open_cluster
from generator.seed import iso
from generator.store.folder import Store
from generator.vm.domain_xml import iso_in_drive
from tests.assembly.miniature import ETCDCTL_LIMITS
from tests.vm.conftest import Lab, Run, command_line

pytestmark = pytest.mark.alone
NODES = ("etcd1", "etcd2", "etcd3")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster") / "out"


@pytest.fixture(scope="module")
def bake_in_lab(lab: Lab, out: Path) -> Iterator[Run]:
    run = command_line(lab, "life", out)
    yield run
    run("destroy", "--yes")


def etcdctl(out: Path, image: BootImage, *words: str) -> Any:
    """Run a stock etcdctl with only the settings of `etcdctl.env`."""
    assert image.bin_dir is not None
    env = shlex.quote(str(out / "life" / "etcdctl.env"))
    script = f". {env} && exec {image.bin_dir}/etcdctl -w json {shlex.join(ETCDCTL_LIMITS)} {shlex.join(words)}"
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(["sh", "-c", script], text=True, capture_output=True, check=True, env=environment)
    return json.loads(result.stdout)


def members(out: Path, image: BootImage) -> dict[str, int]:
    return {member["name"]: member["ID"] for member in etcdctl(out, image, "member", "list")["members"]}


def test_three_vms_become_a_verified_cluster(bake_in_lab: Run, out: Path, base_image: BootImage) -> None:
    bake_in_lab("up", "--nodes", 3, "--wait", 600)
    assert sorted(members(out, base_image)) == ["etcd1", "etcd2", "etcd3"]
    etcdctl(out, base_image, "put", "kept", "yes")


def test_the_bootstrap_permit_is_removed(bake_in_lab: Run, out: Path) -> None:
    assert (out / "life/sealed").exists()
    assert list(out.glob("life/etcd*/bootstrap-permit")) == []
    assert iso.SEED_PERMIT not in {file.path for file in iso.unpack((out / "life/etcd1/seed.iso").read_bytes())}
    told = json.loads(bake_in_lab("status", "-o", "json").stdout)
    assert (told["sealed"], told["tasks"]) == (True, [])
    assert "sealed already" in bake_in_lab("seal").stdout


def test_etcdctl_needs_no_program_on_this_machine(bake_in_lab: Run) -> None:
    lines = json.loads(bake_in_lab("etcdctl", "endpoint", "health", "-w", "json", *ETCDCTL_LIMITS).stdout)
    assert [one["health"] for one in lines] == [True] * 3


def test_the_journals_are_on_the_host(bake_in_lab: Run) -> None:
    found = json.loads(bake_in_lab("logs", "--unit", "etcd", "-o", "json").stdout)["entries"]
    assert {one["node"] for one in found} == set(NODES)
    assert [one["time"] for one in found] == sorted(one["time"] for one in found)
    assert any("published local member to cluster" in one["message"] for one in found)
    kernel = json.loads(bake_in_lab("logs", "etcd2", "-o", "json", "--lines", 5000).stdout)["entries"]
    assert {one["node"] for one in kernel} == {"etcd2"}
    assert any(one["identifier"] == "kernel" and "Linux version" in one["message"] for one in kernel)


def test_no_seed_is_left_where_the_vms_run(lab: Lab, connection: Any) -> None:
    assert list((lab.folder / "lib/images/bake-life").glob("*.seed-*")) == []
    for name in NODES:
        domain = connection.lookupByName(f"life-{name}")
        for flags in (0, 2):  # the live definition, and the definition for the next start (VIR_DOMAIN_XML_INACTIVE)
            assert iso_in_drive(domain.XMLDesc(flags)) == ""


def test_new_certificates_reach_running_nodes(bake_in_lab: Run, lab: Lab, connection: Any) -> None:
    before = serials(bake_in_lab)
    bake_in_lab("certs", "rotate", "etcd1", "etcd3", "--wait", 900)
    assert {owner for (owner, _), one in serials(bake_in_lab).items() if one != before[owner, _]} == {"etcd1", "etcd3"}
    assert json.loads(bake_in_lab("certs", "-o", "json").stdout)["outdated"] == dict.fromkeys(NODES, False)
    bake_in_lab("verify")
    test_no_seed_is_left_where_the_vms_run(lab, connection)


def test_a_seed_that_is_put_in_again_is_looked_at_again(
    out: Path, lab: Lab, connection: Any, tmp_path: Path
) -> None:
    """The drive has the seed of another node. The node reports this at each insertion."""
    cluster = open_cluster(Store(out, "life"))
    (tmp_path / "etcd1").mkdir()
    shutil.copy(out / "life/etcd2/seed.iso", tmp_path / "etcd1/seed.iso")
    engine = vm.LibvirtEngine(
        connection=connection, plan=cluster.plan, cluster_id=cluster.cluster_id, seeds=tmp_path,
        load_image=pytest.fail, report=print,
    )  # fmt: skip
    console = lab.folder / "lib/images/bake-life/etcd1.console.log"
    for times in (1, 2):
        engine.insert_seed("etcd1", again=True)
        deadline = time.monotonic() + 120
        while console.read_text(errors="replace").count("the seed in the drive belongs to another node") < times:
            assert time.monotonic() < deadline, f"not told {times} times"
            time.sleep(0.5)
    engine.remove_seed("etcd1")


def test_a_new_ca_reaches_running_nodes(bake_in_lab: Run, lab: Lab, out: Path, connection: Any) -> None:
    before, authority = serials(bake_in_lab), (out / "life/pki/etcd-ca.pem").read_bytes()
    done = json.loads(bake_in_lab("certs", "rotate", "--ca", "--all-phases", "-o", "json", "--wait", 900).stdout)
    assert (done["done"], done["ca_change"]) == ([*NODES], None)
    after = serials(bake_in_lab)
    assert {key for key in before if after[key] == before[key]} == set()
    assert authority not in (out / "life/pki/etcd-ca.pem").read_bytes()
    bake_in_lab("verify")
    test_no_seed_is_left_where_the_vms_run(lab, connection)


def serials(bake_in_lab: Run) -> dict[tuple[str, str], str]:
    found = json.loads(bake_in_lab("certs", "-o", "json").stdout)["certificates"]
    return {(one["owner"], one["role"]): one["serial"] for one in found}


def test_up_again_changes_nothing(bake_in_lab: Run, out: Path, base_image: BootImage) -> None:
    before = members(out, base_image), (out / "life" / "manifest.json").stat().st_mtime_ns
    bake_in_lab("up", "--nodes", 3, "--wait", 120)
    assert (members(out, base_image), (out / "life" / "manifest.json").stat().st_mtime_ns) == before


def test_a_node_whose_power_was_cut_comes_back_as_the_same_member(
    bake_in_lab: Run, lab: Lab, out: Path, base_image: BootImage
) -> None:
    before = members(out, base_image)
    lab.cut_power("life-etcd2")
    assert bake_in_lab("logs", "etcd2", "--unit", "etcd").stdout.count("\n") > 50, "a crashed node has its journal"
    bake_in_lab("up", "--nodes", 3, "--wait", 600)
    assert members(out, base_image) == before
    bake_in_lab("verify")


def test_down_shuts_every_vm_down_in_order(bake_in_lab: Run, connection: Any) -> None:
    said = bake_in_lab("down").stderr
    assert "powering it off" not in said
    assert [domain.name() for domain in connection.listAllDomains() if domain.isActive()] == []


def test_up_after_down_finds_data_and_members_again(bake_in_lab: Run, out: Path, base_image: BootImage) -> None:
    bake_in_lab("up", "--nodes", 3, "--wait", 600)
    assert sorted(members(out, base_image)) == ["etcd1", "etcd2", "etcd3"]
    assert etcdctl(out, base_image, "get", "kept")["count"] == 1


def test_no_private_key_reaches_a_console_or_the_events(out: Path) -> None:
    texts = [path.read_bytes() for path in (*out.rglob("console.log*"), *out.rglob("events.ndjson"))]
    assert len(texts) >= 4
    assert not any(b"PRIVATE KEY" in text for text in texts)


def test_destroy_leaves_no_vm_network_disk_or_process(bake_in_lab: Run, lab: Lab, connection: Any) -> None:
    bake_in_lab("destroy", "--yes")
    assert connection.listAllDomains() == connection.listAllNetworks() == connection.listAllStoragePools() == []
    assert not (lab.folder / "lib" / "images" / "bake-life").exists()
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    deadline = time.monotonic() + 120
    while subprocess.run(["pgrep", "-f", "guest=life-"], check=False, capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
