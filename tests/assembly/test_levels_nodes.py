"""Three booted nodes apply new seeds: live, with a restart of etcd, and only at the next boot."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config import yaml12
from generator.config.load import load
from generator.image.base import cache_folder, default_image
from generator.operations.bake import bake
from generator.operations.running.applied_seeds import WAITS
from generator.plan import ClusterPlan
from generator.store.folder import Store
from tests.assembly.nspawn_lab import (
    OUR_UNITS,
    PATIENCE,
    REPORT,
    UNTIL_QUIET,
    NspawnLab,
    bake_in_lab,
    healthy,
    strict_units,
    wait_until_off,
)
from tests.assembly.test_nspawn import writing

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODES = ("etcd1", "etcd2", "etcd3")


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    """Three settled nodes."""
    work = tmp_path_factory.mktemp("levels")
    baked = bake(load().spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        for node in NODES:
            strict_units(lab, node)
        lab.start(*NODES)
        lab.wait_for("settled", *NODES, timeout=180)
        lab.seal("etcd1")
        assert bake_in_lab(lab, "seal").returncode == 0
        yield lab


def rebake(lab: NspawnLab, **fields: object) -> ClusterPlan:
    """Bake the cluster again with other settings and the same certificates."""
    config = lab.work / "cluster.yaml"
    config.write_text(yaml12.dump({"apiVersion": "bake/v1", "nodes": 3, **fields}))
    return bake(load(config=config).spec, Store(lab.folder.parent, "etcd"), now=datetime.now(UTC), report=print).plan


def apply(lab: NspawnLab, node: str) -> None:
    """Insert the node's seed. In VMs, udev starts apply-seed."""
    lab.insert(node)
    lab.shell(node, f"systemctl start apply-seed; {UNTIL_QUIET}")


def seed_id(lab: NspawnLab, node: str) -> str:
    return (lab.folder / node / "meta-data").read_text().splitlines()[0].removeprefix("instance-id: ")


def reported(lab: NspawnLab, node: str) -> str | None:
    """Return the id of the seed that the node runs, from its report in etcd."""
    bin_dir = default_image(cache_folder(), report=print).bin_dir
    get = f". {lab.folder}/etcdctl.env; {bin_dir}/etcdctl get --print-value-only bake/audit/{node}"
    text = lab.run("sh", "-c", get, check=False).stdout
    return json.loads(text).get("seed") if text.strip() else None


def wait_for_report(lab: NspawnLab, node: str) -> float:
    """Wait until the node reports that it runs its newest seed, and return the seconds."""
    begun = time.monotonic()
    while reported(lab, node) != seed_id(lab, node):
        assert time.monotonic() < begun + 60 * PATIENCE, lab.console(node)[-2000:]
        time.sleep(0.2)
    return time.monotonic() - begun


def process(lab: NspawnLab, node: str) -> str:
    """Return the id and the start of the etcd process."""
    return lab.shell(node, "systemctl show -P MainPID -P ExecMainStartTimestampMonotonic etcd").stdout


def option(lab: NspawnLab, node: str) -> str:
    """Return the heartbeat interval of the etcd process."""
    look = "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID etcd)/environ | grep HEARTBEAT"
    return lab.shell(node, look, check=False).stdout.strip()


def test_every_node_reports_the_id_of_its_first_seed(lab: NspawnLab) -> None:
    for node in NODES:
        wait_for_report(lab, node)
        kept = lab.shell(node, "cat /var/lib/bake/network-config").stdout
        assert kept == (lab.folder / node / "network-config").read_text()


def test_new_members_reach_the_firewall_while_etcd_keeps_running(lab: NspawnLab) -> None:
    before = {node: process(lab, node) for node in NODES}
    address = str(rebake(lab, nodes=5).nodes[4].address)
    for node in NODES:
        assert address not in lab.shell(node, "nft list ruleset").stdout
        apply(lab, node)
        lab.wait_for_text(node, f'phase=settled seed={seed_id(lab, node)} detail="new configuration applied"')
        assert lab.shell(node, "nft list ruleset").stdout.count(address) == 1  # the peer port; clients may be anywhere
        print(f"{node}: its report has the new id after {wait_for_report(lab, node):.1f} s")
    assert {node: process(lab, node) for node in NODES} == before
    rebake(lab, nodes=3)
    for node in NODES:
        apply(lab, node)
        assert address not in lab.shell(node, "nft list ruleset").stdout
    assert {node: process(lab, node) for node in NODES} == before
    assert healthy(lab).returncode == 0


def test_an_account_gets_and_loses_the_client_key_while_etcd_keeps_running(lab: NspawnLab) -> None:
    before, read = process(lab, "etcd2"), "setpriv --reuid=daemon --clear-groups cat /etc/etcd/pki/etcd-client.key"
    for readers, code in ((["daemon"], 0), ([], 1)):
        rebake(lab, access={"readers": readers})
        apply(lab, "etcd2")
        wait_for_report(lab, "etcd2")
        assert lab.shell("etcd2", read, check=False).returncode == code
    assert process(lab, "etcd2") == before


def test_an_etcd_option_restarts_one_node_after_the_other_and_no_write_fails(lab: NspawnLab) -> None:
    rebake(lab, etcd={"options": {"heartbeat-interval": 150}})
    with writing(lab, *NODES, patience=30) as end:
        for node in NODES:
            before = process(lab, node)
            apply(lab, node)
            print(f"{node}: runs the new option after {wait_for_report(lab, node):.1f} s")
            assert process(lab, node) != before
            assert option(lab, node) == "ETCD_HEARTBEAT_INTERVAL=150"
        done, failed = end()
    print(f"{done} writes meanwhile")
    assert done > 10
    assert failed == 0
    assert healthy(lab).returncode == 0


def test_nodes_that_get_an_option_at_the_same_time_restart_one_after_the_other(lab: NspawnLab) -> None:
    """One of the nodes loses its power while it applies the seed."""
    rebake(lab, etcd={"options": {"heartbeat-interval": 120}})
    with writing(lab, *NODES, patience=30) as end:
        for node in NODES:
            lab.insert(node)
            lab.shell(node, "systemctl --no-block start apply-seed")
        seen = lab.phases("etcd2").count("voting")
        lab.cut_power("etcd2")
        lab.start("etcd2")
        lab.wait_for("voting", "etcd2", times=seen + 1)
        lab.shell("etcd2", "systemctl start apply-seed")
        for node in NODES:
            wait_for_report(lab, node)
            assert option(lab, node) == "ETCD_HEARTBEAT_INTERVAL=120"
        done, failed = end()
    print(f"{done} writes meanwhile")
    assert done > 10
    assert failed == 0
    for node in NODES:
        assert lab.shell(node, "ls /run/bake/restart-etcd /var/lib/bake/applying", check=False).stdout == ""
    assert healthy(lab).returncode == 0


def test_no_unit_has_failed_or_was_denied_anything(lab: NspawnLab) -> None:
    words = "denied|not permitted|read-only file system|seccomp|SIGSYS|status=31|core-dump|traceback"
    for node in NODES:
        assert lab.shell(node, "systemctl list-units --failed --no-legend --plain").stdout == ""
        units = " ".join(f"-u {unit}" for unit in OUR_UNITS)
        assert lab.shell(node, f"journalctl --no-pager {units} | grep -iE '{words}'", check=False).stdout == ""
        left = "find /usr/libexec/bake /etc/systemd /etc/udev /etc/etcd -name '*.new' -o -name '*.pyc'"
        assert lab.shell(node, left).stdout == ""


def test_a_seed_that_needs_a_reboot_only_says_so(lab: NspawnLab) -> None:
    before, rules = process(lab, "etcd3"), lab.shell("etcd3", "nft list ruleset").stdout
    rebake(lab, firewall={"kind": "iptables"})
    record = f'bake: node=etcd3 phase=waiting detail="{WAITS}"'
    seen = lab.console("etcd3").count(record)
    apply(lab, "etcd3")
    lab.wait_for_text("etcd3", record, times=seen + 1)
    assert lab.console("etcd3").rstrip().endswith(record)
    assert process(lab, "etcd3") == before
    assert lab.shell("etcd3", "nft list ruleset").stdout == rules
    assert 'BAKE_FIREWALL="nftables"' in lab.shell("etcd3", "cat /etc/etcd/bake.env").stdout
    assert wait_for_report_of_old_seed(lab, "etcd3") != seed_id(lab, "etcd3")


def wait_for_report_of_old_seed(lab: NspawnLab, node: str) -> str | None:
    lab.shell(node, REPORT)
    return reported(lab, node)


def test_the_reboot_applies_it(lab: NspawnLab) -> None:
    place = "/var/lib/cloud/seed/nocloud"  # a VM's cloud-init reads the drive
    lab.shell("etcd3", f"mkdir -p {place} && cp /run/bake/seed/user-data /run/bake/seed/meta-data {place}")
    seen = lab.phases("etcd3").count("settled")
    lab.shell("etcd3", "systemctl reboot", check=False)
    wait_until_off(lab, "etcd3")
    lab.start("etcd3")
    lab.wait_for("settled", "etcd3", times=seen + 1, timeout=180)
    wait_for_report(lab, "etcd3")
    assert "BAKE_ETCD" in lab.shell("etcd3", "iptables -S INPUT").stdout
    rebake(lab, firewall={"kind": "iptables"}, etcd={"options": {"heartbeat-interval": 130}})
    before = process(lab, "etcd3")
    apply(lab, "etcd3")
    wait_for_report(lab, "etcd3")
    assert process(lab, "etcd3") != before
    assert option(lab, "etcd3") == "ETCD_HEARTBEAT_INTERVAL=130"
