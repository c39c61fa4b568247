"""Adding a node to a running cluster: the firewall of the running node refuses the new node until a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Lab, Run, command_line


@pytest.fixture
def bake_in_lab(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    run = command_line(lab, "grow", tmp_path / "out")
    yield run
    run("destroy", "--yes")


def test_a_second_node_joins_after_the_first_was_restarted(bake_in_lab: Run, connection: Any) -> None:
    bake_in_lab("up", "--nodes", 1, "--wait", 600)
    start = time.monotonic()

    told = bake_in_lab("up", "--nodes", 2, "--wait", 600, code=3).stderr

    assert time.monotonic() - start < 60
    assert "warning: not booting etcd2, because the peer firewall of etcd1 refuses etcd2" in told
    assert "not booted: etcd2; first restart the nodes that refuse them: etcd1" in told
    assert [domain.name() for domain in connection.listAllDomains()] == ["grow-etcd1"]

    connection.lookupByName("grow-etcd1").shutdown()
    while connection.lookupByName("grow-etcd1").isActive():
        time.sleep(0.2)
    told = bake_in_lab("up", "--nodes", 2, "--wait", 600).stderr

    assert "etcd2: settled" in told
    assert "refuses" not in told
