"""`bake audit` on three booted nodes of the profile `hardened` without auth: it passes, and it detects changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator.config.auth import AuthSpec
from generator.config.load import load
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.miniature import ETCDCTL_LIMITS
from tests.assembly.nspawn_lab import REPORT, NspawnLab, bake_in_lab, healthy

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODES = ("etcd1", "etcd2", "etcd3")


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    work = tmp_path_factory.mktemp("audit")
    # Auth is off, because with auth a node could not report without client-cert-auth. test_auth_nodes tests auth.
    spec = replace(load(profile="hardened").spec, auth=AuthSpec())
    baked = bake(spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        for node in NODES:  # a report at any time would undo what a test does
            folder = lab.work / node / "upper/etc/systemd/system/etcd-audit.timer.d"
            folder.mkdir()
            (folder / "off.conf").write_text("[Unit]\nConditionPathExists=/nonexistent\n")
        lab.start(*NODES)
        lab.wait_for("voting", *NODES, timeout=120)
        lab.wait_for_reports()
        yield lab


def missed(lab: NspawnLab, *wanted: str) -> dict[str, dict[str, Any]]:
    """Return the controls that did not pass, by id.

    Try again while these are not the wanted controls, because a node on a busy machine may answer late.
    """
    deadline = time.monotonic() + 120
    while True:
        controls = json.loads(bake_in_lab(lab, "audit", "-o", "json").stdout)["controls"]
        found = {one["id"]: one for one in controls if one["result"] != "passed"}
        if set(found) == set(wanted) or time.monotonic() > deadline:
            assert len(controls) == 19
            return found
        time.sleep(1)


def report_again(lab: NspawnLab, node: str) -> None:
    lab.shell(node, REPORT)


def test_all_fourteen_controls_of_the_benchmark_are_passed_and_ours(lab: NspawnLab) -> None:
    result = healthy(lab, "audit")
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    assert missed(lab) == {}


def test_a_node_reports_without_a_secret_and_without_a_failed_unit(lab: NspawnLab) -> None:
    for node in NODES:
        assert lab.shell(node, "systemctl list-units --failed --no-legend --plain").stdout == ""
        said = lab.shell(node, "cat /run/bake-audit/report.json").stdout
        keys = lab.shell(node, "cat /etc/etcd/pki/*.key").stdout.splitlines()
        assert sum(line.startswith("-----BEGIN") for line in keys) == 3
        assert not [line for line in keys if line in said]
        assert "trusted-ca-file" in said


def test_a_mode_that_somebody_widened_is_found_and_nothing_else(lab: NspawnLab) -> None:
    lab.shell("etcd2", "chmod o+r /etc/etcd/etcd.conf")
    report_again(lab, "etcd2")
    found = missed(lab, "1.1.7")
    lab.shell("etcd2", "chmod o-r /etc/etcd/etcd.conf")
    report_again(lab, "etcd2")
    assert list(found) == ["1.1.7"]
    assert found["1.1.7"]["nodes"] == ["etcd2"]
    assert missed(lab) == {}


def test_an_etcd_that_lets_in_anybody_is_found_twice(lab: NspawnLab) -> None:
    """Both the node's report and the probe of its port show the change."""
    change = f"sed -i {{}} /etc/etcd/etcd.conf && systemctl restart etcd || exit 1; {REPORT}"
    lab.shell("etcd3", change.format("'s/^ETCD_CLIENT_CERT_AUTH=.*/#&/; s/^ETCD_TRUSTED_CA_FILE=.*/#&/'"))
    found = missed(lab, "1.1.19", "1.1.20", "2.2", "2.7")  # 1.1.x: the settings no longer name the CA's file
    lab.shell("etcd3", change.format("'s/^#ETCD_/ETCD_/'"))
    assert "client-cert-auth is not set" in found["2.2"]["evidence"]
    assert "the client port accepts clients without a certificate" in found["2.2"]["evidence"]
    assert found["2.2"]["nodes"] == found["2.7"]["nodes"] == ["etcd3"]
    assert missed(lab) == {}


def test_a_node_that_stops_reporting_is_said_not_to_report(lab: NspawnLab) -> None:
    old = json.loads(lab.shell("etcd1", "cat /run/bake-audit/report.json").stdout) | {"time": 1_700_000_000}
    put = "set -a; . /etc/etcd/bake.env; etcdctl --endpoints=$BAKE_CLIENT_URL"
    put += f" {' '.join(ETCDCTL_LIMITS)} put bake/audit/etcd1"
    lab.shell("etcd1", f"{put} '{json.dumps(old)}'")
    result = bake_in_lab(lab, "audit")
    report_again(lab, "etcd1")
    assert result.returncode == 3
    assert "not reported" in result.stdout
    assert "its last report is from 2023-11-14" in result.stdout
    assert missed(lab) == {}
