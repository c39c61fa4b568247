"""`bake report` on real etcd processes with recorded consoles, read in a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from generator.engine import MachineStatus, State
from generator.errors import BakeError, UnhealthyError
from generator.etcd import observe
from generator.health import Result
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.reporting import collect
from generator.report.page import render
from tests.assembly.miniature import Miniature, Tools
from tests.assembly.reported import baked, boot
from tests.browser import WIDTHS, chromium, opened, overflow, overlaps, url_of, wide_tables
from tests.unit.test_report import SAID
from tests.unit.test_secrets import revealed_keys

pytestmark = pytest.mark.etcd
HOSTS = [
    {"name": f"host{number}", "uri": f"qemu+unix:///system?socket=/none/{number}", "failureDomain": domain}
    for number, domain in ((1, "rack1"), (2, "rack1"), (3, "rack2"))
]


@pytest.fixture(scope="module")
def trio(bin_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Miniature, Cluster]]:
    subnet = {"subnet": "127.99.1.0/24", "firstIp": "127.99.1.11"}
    miniature, cluster = baked(
        tmp_path_factory.mktemp("report") / "out", Tools(bin_dir=bin_dir), nodes=3, hosts=HOSTS, network=subnet,
        firewall={"kind": "none"},
    )  # fmt: skip
    try:
        boot(miniature, cluster)
        yield miniature, cluster
    finally:
        miniature.stop()


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str]) -> Iterator[Browser]:
    with chromium(tool("chromium")) as found:
        yield found


def look(cluster: Cluster) -> collect.Found:
    """Query the nodes. The VMs are invented, because the nodes are processes."""
    machines = {
        node.name: MachineStatus(
            node=node.name, state=State.RUNNING, host=node.host, accel="kvm", image="0123abcd",
            built="2026-11-24T00:00:00Z",
        )
        for node in cluster.plan.nodes
    }  # fmt: skip
    images = {"0123abcd": {"kernel": "6.12.1", "systemd": "257.9"}}
    return collect.query(cluster, lambda _note: machines, images, now=datetime.now(UTC), report=print)


def no_machines(_note: object) -> Any:
    raise BakeError("cannot connect to libvirt")


def test_the_page_of_a_healthy_cluster(
    trio: tuple[Miniature, Cluster], browser: Browser, tmp_path: Path
) -> None:
    miniature, cluster = trio
    found = look(cluster)
    collect.refuse_unhealthy(found, "")
    assert found.notices == []
    page_text = render(collect.content(cluster, found, now=datetime.now(UTC)))
    assert revealed_keys(cluster.store.folder, page_text) == set()
    file = tmp_path / "report.html"
    file.write_text(page_text)
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            with opened(browser, url_of(file), width, scheme) as (page, wrong):
                assert (overflow(page), wide_tables(page), overlaps(page), wrong) == (0, 0, [], [])
                assert page.pdf(format="A4").startswith(b"%PDF")
    with opened(browser, url_of(file), 1280) as (page, _):
        text = page.inner_text("main")
        roles = page.locator(".role").all_inner_texts()
        assert sorted(roles) == ["leader", "voter", "voter"]
        leader = page.locator(".role-leader strong").inner_text()
        assert f"leader {leader}" in text
        assert page.locator(".domain h3").all_inner_texts() == ["Failure domain rack1", "Failure domain rack2"]
        assert page.locator(".tile .figure").all_inner_texts()[:2] == ["3 of 3", "1 node"]
        names = page.locator("#verify tbody th").all_inner_texts()
        assert found.verification
        assert names == [check.name for check in found.verification.checks]
        assert set(page.locator("#verify .badge").all_inner_texts()) == {"✓ ok"}
        assert page.locator("#versions tbody tr").count() == 3
        assert "etcd has no alarm" in text
        chart = page.locator(".chart-wide svg desc").text_content() or ""
        for node in miniature.nodes:
            assert f"{node.plan.name}: booting" in chart
        assert chart.count("settled after") == 3
        assert "learner" in chart


def test_the_page_of_a_cluster_without_one_node_and_without_all_nodes(
    trio: tuple[Miniature, Cluster], browser: Browser, tmp_path: Path
) -> None:
    miniature, cluster = trio
    file = tmp_path / "report.html"
    for node in miniature.nodes:  # the report of etcd3 is older than the failure
        said = SAID | {"node": node.plan.name, "time": int(time.time()), "seed": ""}
        miniature.etcdctl(node, "put", f"bake/audit/{node.plan.name}", json.dumps(said))
    miniature.nodes[2].kill()
    files, others = client_files(cluster.store.folder), cluster.plan.nodes[:2]
    # A linearizable read needs a leader, which may have been etcd3.
    miniature.wait(lambda: all(observe.list_keys([node], files).value for node in others), 20, "both know a leader")
    found = look(cluster)
    assert found.audit
    missing, *controls = found.audit.controls
    assert (missing.name, missing.detail) == ("nodes", "etcd3: does not answer: connection refused")
    assert {control.result for control in controls} == {Result.OK, Result.FAILED}
    assert not any("etcd3" in f"{control.detail} {control.nodes}" for control in controls)
    with pytest.raises(UnhealthyError, match="not healthy"):
        collect.refuse_unhealthy(found, "")
    file.write_text(render(collect.content(cluster, found, now=datetime.now(UTC))))
    with opened(browser, url_of(file), 375, "dark") as (page, wrong):
        assert "etcd3 of 3 nodes: etcd does not answer" in page.inner_text(".notices")
        assert page.locator(".node.failed strong").all_inner_texts() == ["etcd3"]
        assert page.locator(".tile .figure").all_inner_texts()[0] == "2 of 3"
        assert (overflow(page), wrong) == (0, [])
    miniature.stop()
    found = collect.query(cluster, no_machines, {}, now=datetime.now(UTC), report=print)
    with pytest.raises(UnhealthyError, match="only what is in the cluster's folder"):
        collect.refuse_unhealthy(found, "")
    file.write_text(render(collect.content(cluster, found, now=datetime.now(UTC))))
    with opened(browser, url_of(file), 1280) as (page, wrong):
        notices = page.inner_text(".notices")
        assert "no node answers (etcd1, etcd2, etcd3: connection refused)" in notices
        assert "cannot connect to libvirt" in notices
        assert set(page.locator(".role").all_inner_texts()) == {"unknown"}
        assert page.locator(".chart svg:visible").count() == 1
        assert page.locator("#certificates tbody tr").count() == 12
        assert wrong == []
