"""`bake destroy` with libvirt's test driver: the owner of VMs, the list of VMs, and confirmation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from generator.errors import BakeError
from generator.plan import ClusterPlan
from generator.vm.domain_xml import Accel, Files, Owner, domain_xml, network_xml

libvirt = pytest.importorskip("libvirt")

from generator import vm  # noqa: E402

Bake = Callable[..., Any]
DRIVER = "test:///default"
FILES = Files(disk="/pool/d.qcow2", seed="/pool/s.iso", console="/pool/c.log", journal="/pool/j.log")
OTHER = "f" * 16  # the id of another cluster


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    connected = vm.connect(DRIVER)
    monkeypatch.setattr(vm, "connect", lambda _uri: connected)
    yield connected
    for domain in connected.listAllDomains():
        if domain.name() != "test":
            domain.destroy()
            domain.undefine()
    for network in connected.listAllNetworks():
        if network.name() != "default":
            network.undefine()


@pytest.fixture
def start(driver: Any, plan: Callable[..., ClusterPlan]) -> Callable[[str], None]:
    """Define the first node's VM and the network, tagged with a cluster's id."""

    def define(cluster_id: str) -> None:
        tag = Owner(cluster="etcd", cluster_id=cluster_id, version="1", node="etcd1")
        driver.defineXML(domain_xml(plan(), plan().nodes[0], FILES, Accel.TCG, tag)).create()
        driver.networkDefineXML(network_xml(plan().network, tag))

    return define


def names(driver: Any) -> set[str]:
    return {thing.name() for thing in (*driver.listAllDomains(), *driver.listAllNetworks())} - {"test", "default"}


def identity() -> str:
    return Path("out/etcd/identity").read_text()[:16]


def test_destroy_lists_what_it_removes_and_needs_confirmation(
    bake: Bake, driver: Any, start: Callable[[str], None]
) -> None:
    bake("--nodes", 1)
    start(identity())
    for more in ((), ("-q",)):
        refused = bake("destroy", *more)
        assert (refused.code, refused.out) == (2, "")
        assert f"- VM etcd-etcd1 (cluster id {identity()})\n- network bake-etcd" in refused.err
        assert "this cannot be undone: all data of the cluster 'etcd' is lost" in refused.err
        assert names(driver) == {"etcd-etcd1", "bake-etcd"}
    done = bake("destroy", "--yes", "-o", "json")
    assert done.code == 0
    assert json.loads(done.out)["removed"] == ["etcd-etcd1", "bake-etcd"]
    assert names(driver) == set()
    again = bake("destroy")
    assert (again.code, again.out) == (0, "removed: nothing\n")


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_destroy_asks_on_a_terminal(
    bake: Bake, driver: Any, start: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, answer: bool, code: int
) -> None:
    bake("--nodes", 1)
    start(identity())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: answer)
    assert bake("destroy").code == code
    assert (names(driver) == set()) == answer


def test_without_an_identity_nothing_is_removed(bake: Bake, driver: Any, start: Callable[[str], None]) -> None:
    start(OTHER)
    for more in ((), ("--yes",)):
        refused = bake("destroy", *more)
        assert refused.code == 2
        assert "there is no cluster 'etcd' in" in refused.err
        assert f"VM etcd-etcd1 (cluster id {OTHER})" in refused.err
        assert "--force" in refused.err
    asked = bake("destroy", "--force")
    assert asked.code == 2
    assert f"- VM etcd-etcd1 (cluster id {OTHER})" in asked.err
    assert names(driver) == {"etcd-etcd1", "bake-etcd"}
    assert bake("destroy", "--force", "--yes").code == 0
    assert names(driver) == set()


def test_another_cluster_with_the_same_name_stays(bake: Bake, driver: Any, start: Callable[[str], None]) -> None:
    bake("--nodes", 1)
    start(OTHER)
    for more in ((), ("--force",)):
        assert bake("destroy", "--yes", *more).out == "removed: nothing\n"
    assert names(driver) == {"etcd-etcd1", "bake-etcd"}


@pytest.mark.parametrize("words", [(), ("--yes",), ("--yes", "--force")], ids=str)
def test_a_missing_cluster_is_an_error(bake: Bake, driver: Any, words: tuple[str, ...]) -> None:
    bake("--nodes", 1)
    result = bake("destroy", "--name", "typo", *words)
    assert (result.code, result.out) == (2, "")
    assert "error: --name: there is no cluster 'typo' in" in result.err
    assert "and libvirt has no VM and no network with that name" in result.err


def test_destroy_reports_that_libvirt_did_not_list_vms(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise BakeError("no connection")

    monkeypatch.setattr(vm, "connect", refuse)
    result = bake("destroy", "--name", "typo", "--yes")
    assert (result.code, "libvirt has no" in result.err) == (2, False)
    assert "libvirt did not list the VMs with that name: no connection" in result.err


def test_down_needs_the_folder(bake: Bake, driver: Any, start: Callable[[str], None]) -> None:
    bake("--nodes", 1)
    start(identity())
    shutil.rmtree("out")
    result = bake("down")
    assert result.code == 2
    assert "there is no cluster 'etcd' in" in result.err
    assert driver.lookupByName("etcd-etcd1").isActive()
