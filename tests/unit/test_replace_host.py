"""`bake replace NODE --host HOST`: the node gets the host, every other node keeps its own, a silent host gets none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.cli import change
from generator.cli.common import load

Bake = Callable[..., Any]
SPEC = """nodes: {nodes}
network: {{mode: bridge, bridge: br0}}
hosts:
  - {{name: h1, uri: "qemu+ssh://h1/system"}}
  - {{name: h2, uri: "qemu+ssh://h2/system", failureDomain: rack}}
  - {{name: h3, uri: "qemu+ssh://h3/system"}}
"""


@pytest.fixture
def moved(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return `moved("etcd2", "--host", "h3", down={"h2"})`: the spec that `bake replace` would apply, or its result."""

    def run(*words: str, nodes: str = "3", down: set[str] = frozenset(), before: Callable[[], None] = bool) -> Any:  # type: ignore[assignment]
        Path("cluster.yaml").write_text(SPEC.format(nodes=nodes))
        assert bake("--config", "cluster.yaml").code == 0
        specs = []
        monkeypatch.setattr("generator.cli.engines.silent_hosts", lambda hosts: down & {one.name for one in hosts})

        def apply(options: dict[str, Any], *_: object, **__: object) -> None:
            before()
            specs.append(load(options).spec)

        monkeypatch.setattr(change, "run_apply", apply)
        done = bake("replace", *words)
        return specs[0] if specs else done

    return run


def hosts_of(spec: Any) -> dict[str, str | None]:
    return {node.name: node.host for node in spec.nodes}


def test_only_the_named_node_moves(moved: Callable[..., Any]) -> None:
    spec = moved("etcd2", "--host", "h3", down={"h2"})
    assert hosts_of(spec) == {"etcd1": "h1", "etcd2": "h3", "etcd3": "h3"}
    assert {host.name: host.offline for host in spec.hosts} == {"h1": False, "h2": True, "h3": False}
    assert spec.hosts[1].failure_domain == "rack"


def test_a_listed_node_keeps_its_address(moved: Callable[..., Any]) -> None:
    nodes = "[{name: a}, {name: b, address: 192.168.20.99}, {name: c, host: h3}]"
    spec = moved("b", "--host", "h1", down={"h2"}, nodes=nodes)
    assert hosts_of(spec) == {"a": "h1", "b": "h1", "c": "h3"}
    assert str(spec.nodes[1].address) == "192.168.20.99"


def test_a_move_that_would_cost_the_quorum_with_one_domain_is_refused_while_its_host_answers(
    moved: Callable[..., Any]
) -> None:
    done = moved("etcd2", "--host", "h3")
    assert done.code == 2
    assert "2 of 3 nodes are in the failure domain h3; without it there is no quorum" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("etcd9", "--host", "h3"), "'etcd9' is not a node"),
        (("etcd2", "--host", "h9"), "the cluster file has no host 'h9'"),
    ],
)
def test_unknown_names_are_refused(words: tuple[str, ...], message: str, moved: Callable[..., Any]) -> None:
    done = moved(*words)
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_cluster_that_changes_meanwhile_is_not_changed_back(moved: Callable[..., Any], bake: Bake) -> None:
    """Otherwise the move would remove nodes that another command has added."""
    done = moved("etcd2", "--host", "h3", down={"h2"}, before=lambda: bake("--nodes", 5))
    assert done.code != 0
    assert "another command has just changed this cluster" in done.err


@pytest.mark.parametrize("command", ["destroy --yes", "up", "seal --yes"])
def test_connect_is_refused_beside_hosts(command: str, bake: Bake) -> None:
    Path("cluster.yaml").write_text(SPEC.format(nodes=3))
    assert bake("--config", "cluster.yaml").code == 0
    done = bake(*command.split(), "--connect", "qemu:///system")
    assert (done.code, "--connect: qemu:///system has no effect" in done.err) == (2, True), done.err


def test_the_result_of_a_bake_names_each_node_s_host(bake: Bake) -> None:
    Path("cluster.yaml").write_text(SPEC.format(nodes=3))
    header, *rows = bake("--config", "cluster.yaml").out.splitlines()
    assert header.split() == ["NAME", "ADDRESS", "MAC", "HOST", "ISO"]
    assert [row.split()[3] for row in rows] == ["h1", "h2", "h3"]
