"""`bake report` and `bake timeline` on three booted nodes, whose consoles are recorded while they boot."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.console_records import Journal, follow
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.miniature import PATIENCE
from tests.assembly.nspawn_lab import NspawnLab, bake_in_lab, healthy

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODES = ("etcd1", "etcd2", "etcd3")


class ConsoleFile:
    """Reads a node's console log while the node writes it."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def read(self) -> bytes:
        data = self.path.read_bytes()[self.offset :] if self.path.exists() else b""
        self.offset += len(data)
        return data


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    work = tmp_path_factory.mktemp("report")
    baked = bake(load().spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        journal, left = Journal(baked.folder), set(NODES)
        for node in NODES:
            journal.keep_start(node, time.time())
        lab.start(*NODES)
        consoles = {node: ConsoleFile(lab.console_path(node)) for node in NODES}
        for event in follow(consoles, journal, timeout=120 * PATIENCE):
            left -= {event.node} if event.phase == "settled" else set()
            if not left:
                break
        lab.wait_for_reports()
        assert bake_in_lab(lab, "seal", "--yes").returncode == 0
        yield lab


def test_the_report_of_booted_nodes(lab: NspawnLab) -> None:
    done = healthy(lab, "report", "-o", "json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["answers"], data["healthy"]) == (True, True)
    assert data["file"] == str(lab.folder / "report.html")
    page = (lab.folder / "report.html").read_text()
    assert page.count("settled after") >= 3
    assert "3 of 3" in page
    assert "not reported" not in page, "each node has reported to the audit"


def test_the_timeline_has_each_phase_of_a_boot(lab: NspawnLab) -> None:
    done = bake_in_lab(lab, "timeline", "-o", "json")
    assert done.returncode == 0, done.stderr
    for node in json.loads(done.stdout)["nodes"]:
        phases = [one["phase"] for one in node["phases"]]
        assert phases[:3] == ["booting", "cloud-init", "configured"]
        assert phases[-1] == "settled"
        assert node["settled"]
        assert 0 < node["seconds"] < 120 * PATIENCE


def test_a_dead_node_and_a_dead_cluster_end_with_code_3_and_a_page(lab: NspawnLab) -> None:
    page = lab.folder / "report.html"
    lab.cut_power("etcd3")
    done = bake_in_lab(lab, "report")
    assert (done.returncode, done.stdout) == (3, f"{page}\n")
    assert "the cluster is not healthy: " in done.stderr
    assert "etcd3 of 3 nodes: etcd does not answer" in page.read_text()
    for node in NODES[:2]:
        lab.cut_power(node)
    done = bake_in_lab(lab, "report")
    assert (done.returncode, done.stdout) == (3, f"{page}\n")
    assert "no node answers; the report has only what is in the cluster's folder" in done.stderr
    assert "no node answers" in page.read_text()
