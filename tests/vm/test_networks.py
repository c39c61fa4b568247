"""VMs on a bridge and on a libvirt network that exist: bake uses them, and leaves them as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from generator import vm
from generator.engine import State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan
from tests.vm.conftest import Lab

Make = Callable[..., ClusterPlan]
Engine = Callable[..., vm.LibvirtEngine]
SUBNET = {"subnet": "10.126.0.0/24"}
NETWORK = """<network><name>lan</name><bridge name="virlan"/>
<ip address="10.126.0.1" netmask="255.255.255.0"><dhcp><range start="10.126.0.30" end="10.126.0.40"/></dhcp></ip>
</network>"""


@pytest.fixture
def bridge(lab: Lab) -> Iterator[str]:
    """A bridge of the lab."""
    lab.run("exec", "ip", "link", "add", "shared", "type", "bridge")
    lab.run("exec", "ip", "link", "set", "shared", "up")
    yield "shared"
    lab.run("exec", "ip", "link", "delete", "shared")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def engine(
    lab: Lab, plan: Make, tiny: Callable[[ClusterPlan], BootImage], tmp_path: Path, said: list[str]
) -> Iterator[Engine]:
    """Return `engine(mode="bridge", …)`, which makes the engine of a cluster of one small guest."""
    (tmp_path / "etcd1").mkdir()
    (tmp_path / "etcd1/seed.iso").write_bytes(b"seed" * 1000)
    connection = vm.connect(lab.uri)
    image = tiny(plan(name="nets", nodes=1))

    def make(**network: Any) -> vm.LibvirtEngine:
        cluster = plan(name="nets", nodes=1, vm={"memory": 256, "disk": 2}, network={**SUBNET, **network})
        return vm.LibvirtEngine(
            connection=connection, plan=cluster, cluster_id="id1", seeds=tmp_path, load_image=lambda: image,
            report=said.append, accel="tcg",
        )  # fmt: skip

    yield make
    vm.LibvirtHosts(connection=connection).destroy("nets", cluster_id="id1")


def ports(lab: Lab, bridge: str) -> list[str]:
    links = json.loads(lab.run("exec", "ip", "-json", "link", "show", "master", bridge).stdout or "[]")
    return [link["ifname"] for link in links]


def test_a_vm_is_a_port_of_an_existing_bridge_and_the_bridge_stays(lab: Lab, engine: Engine, bridge: str) -> None:
    assert engine(mode="bridge", bridge=bridge).create("etcd1") == ("etcd1",)
    assert len(ports(lab, bridge)) == 1
    removed = vm.LibvirtHosts(connection=vm.connect(lab.uri)).destroy("nets", cluster_id="id1")
    assert "nets-etcd1" in removed
    assert ports(lab, bridge) == []
    lab.run("exec", "ip", "link", "show", bridge)


def test_a_vm_has_its_vlan_on_a_bridge_that_filters(lab: Lab, engine: Engine, bridge: str) -> None:
    if lab.run("exec", "ip", "link", "set", bridge, "type", "bridge", "vlan_filtering", "1", check=False).returncode:
        pytest.skip("the kernel's bridges filter no VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")
    engine(mode="bridge", bridge=bridge, vlan=20).create("etcd1")
    (port,) = ports(lab, bridge)
    (found,) = json.loads(lab.run("exec", "bridge", "-json", "vlan", "show", "dev", port).stdout)
    assert [(one["vlan"], one.get("flags")) for one in found["vlans"]] == [(20, ["PVID", "Egress Untagged"])]


def test_a_vlan_on_a_bridge_that_does_not_filter_is_refused(engine: Engine, bridge: str) -> None:
    with pytest.raises(BakeError, match=r"shared does not filter VLANs, so network\.vlan 20 would have no effect"):
        engine(mode="bridge", bridge=bridge, vlan=20).create("etcd1")


def test_nothing_is_created_if_the_bridge_is_missing(engine: Engine) -> None:
    with pytest.raises(BakeError, match="the VMs' host has no bridge absent"):
        engine(mode="bridge", bridge="absent").create("etcd1")
    assert engine(mode="bridge", bridge="absent").machines()["etcd1"].state is State.MISSING


def test_an_address_that_another_host_has_is_refused(lab: Lab, engine: Engine, bridge: str) -> None:
    lab.run("exec", "ip", "address", "add", "10.126.0.31/24", "dev", bridge)
    with pytest.raises(BakeError, match=r"another host already uses 10\.126\.0\.31"):
        engine(mode="bridge", bridge=bridge).create("etcd1")
    assert ports(lab, bridge) == []


def test_an_existing_network_is_used_and_stays(lab: Lab, engine: Engine, said: list[str]) -> None:
    connection = vm.connect(lab.uri)
    network = connection.networkCreateXML(NETWORK)
    before = network.XMLDesc()
    try:
        engine(mode="network", name="lan").create("etcd1")
        assert ports(lab, "virlan") != []
        assert any("the addresses of etcd1 are in the DHCP range" in line for line in said)
        vm.LibvirtHosts(connection=connection).destroy("nets", cluster_id="id1")
        assert network.isActive()
        assert network.XMLDesc() == before.replace("connections='1'", "")
    finally:
        network.destroy()
