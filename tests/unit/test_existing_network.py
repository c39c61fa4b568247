"""Checks of an existing network or bridge, with libvirt's driver `test`, which has the network `default`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from generator.errors import BakeError
from generator.plan import ClusterPlan
from generator.vm import existing_network
from generator.vm.domain_xml import Owner, network_xml
from generator.vm.existing_network import check_existing, warn_of_dhcp

Make = Callable[..., ClusterPlan]
NETWORK = """<network><name>{name}</name><forward mode="nat"/><bridge name="{bridge}"/>
<ip address="10.7.0.1" netmask="255.255.255.0"><dhcp><range start="10.7.0.30" end="10.7.0.32"/></dhcp></ip>
<ip family="ipv6" address="fd00:7::1" prefix="64"/></network>"""


@pytest.fixture
def driver() -> Iterator[Any]:
    libvirt = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open("test:///default")
    connection.networkCreateXML(NETWORK.format(name="lan", bridge="virbr7"))
    connection.networkDefineXML(NETWORK.format(name="off", bridge="virbr8"))
    connection.networkCreateXML(
        '<network><name>host</name><forward mode="bridge"/><bridge name="br0"/></network>'
    )
    yield connection
    for network in connection.listAllNetworks():
        if network.name() != "default":
            if network.isActive():
                network.destroy()
            if network.name() == "off":
                network.undefine()


def on(name: str, subnet: str = "10.7.0.0/24", **more: Any) -> dict[str, Any]:
    return {"mode": "network", "name": name, "subnet": subnet, **more}


@pytest.mark.parametrize(
    "network",
    [on("lan"), on("lan", "fd00:7::/64"), on("host", "192.168.20.0/24")],
    ids=["IPv4", "IPv6", "a network on a bridge has no addresses"],
)
def test_a_network_that_fits_is_accepted(network: dict[str, Any], plan: Make, driver: Any) -> None:
    check_existing(driver, plan(network=network))


@pytest.mark.parametrize(
    ("network", "message", "hint"),
    [
        (on("none"), "libvirt has no network none", "set network.name to an existing network: default, host, lan, off"),
        (on("off"), "the network off is not active", "start it: virsh net-start off"),
        (
            on("lan", "192.168.20.0/24"),
            "the network lan has the subnet 10.7.0.0/24 and fd00:7::/64, but network.subnet is 192.168.20.0/24",
            "set network.subnet to 10.7.0.0/24 (--subnet), or use another network",
        ),
        (
            on("lan", gateway="10.7.0.2"),
            "the network lan has the gateway 10.7.0.1, but network.gateway is 10.7.0.2",
            "set network.gateway to 10.7.0.1",
        ),
    ],
    ids=["absent", "not active", "another subnet", "another gateway"],
)
def test_a_network_that_does_not_fit_is_refused(
    network: dict[str, Any], message: str, hint: str, plan: Make, driver: Any
) -> None:
    with pytest.raises(BakeError) as error:
        check_existing(driver, plan(network=network))
    assert (error.value.message, error.value.hint) == (message, hint)


ON_BRIDGES = """
import sys, libvirt
from generator.config.spec import read_spec
from generator.errors import BakeError
from generator.plan import plan_cluster
from generator.vm.domain_xml import Owner, network_xml
from generator.vm.existing_network import check_existing

connection, other = libvirt.open("test:///default"), plan_cluster(read_spec({"name": "other"})[0])
connection.networkDefineXML(network_xml(other.network, Owner(cluster="other", cluster_id="1", version="1")))
for bridge in sys.argv[1:]:
    try:
        check_existing(connection, plan_cluster(read_spec({"network": {"mode": "bridge", "bridge": bridge}})[0]))
        print("accepted")
    except BakeError as error:
        print(f"{error.message}; {error.hint}")
"""


@pytest.mark.parametrize("made", [["br0", "br1"], []])
def test_a_bridge_must_exist_and_the_hint_names_only_bridges(
    made: list[str], plan: Make, tool: Callable[[str], str]
) -> None:
    """The bridges are real, in a network namespace. Only a new mount of /sys shows them."""
    pytest.importorskip("libvirt")
    other = plan(name="other").network.bridge
    bridges = " && ".join(f"{tool('ip')} link add {name} type bridge" for name in [*made, other])
    script = f'mount -t sysfs sysfs /sys && {bridges} && exec "$@"'
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = [tool("unshare"), "--net", "--mount", *root, "sh", "-euc", script, "sh"]
    done = subprocess.run(
        [*words, sys.executable, "-c", ON_BRIDGES, "br-none", "lo", "br1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hint = "create the bridge" + (", or set network.bridge to one of: br0, br1" if made else "")
    absent, no_bridge, last = done.stdout.splitlines()
    assert absent == f"the VMs' host has no bridge br-none: the interface does not exist; {hint}"
    assert no_bridge == f"the VMs' host has no bridge lo: the interface is not a bridge; {hint}"
    assert last == "accepted" if made else last.startswith("the VMs' host has no bridge br1")


def test_networks_of_other_clusters_are_no_choice(plan: Make, driver: Any) -> None:
    owner = Owner(cluster="other", cluster_id="1", version="1")
    network = driver.networkCreateXML(network_xml(plan(name="other").network, owner))
    with pytest.raises(BakeError) as error:
        check_existing(driver, plan(network=on("none")))
    network.destroy()
    assert error.value.hint == "set network.name to an existing network: default, host, lan, off"


def test_a_vlan_needs_libvirt_11(plan: Make, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = plan(network={"mode": "bridge", "bridge": "br0", "vlan": 20})
    monkeypatch.setattr(existing_network, "_bridges", lambda: {"br0"})
    monkeypatch.setattr(existing_network, "_filters_vlans", lambda bridge: bridge == "br0")
    for version, is_accepted in ((10_999_999, False), (11_000_000, True)):
        monkeypatch.setattr(existing_network, "VLANS", driver.getLibVersion() + 11_000_000 - version)
        if is_accepted:
            check_existing(driver, cluster)
        else:
            with pytest.raises(BakeError, match=r"cannot set network.vlan 20; libvirt 11.0.0 is the first that can"):
                check_existing(driver, cluster)


def test_a_vlan_needs_a_bridge_that_filters(plan: Make, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_network, "VLANS", 0)
    monkeypatch.setattr(existing_network, "_bridges", lambda: {"lo"})
    with pytest.raises(BakeError) as error:
        check_existing(driver, plan(network={"mode": "bridge", "bridge": "lo", "vlan": 20}))
    assert error.value.message == "the bridge lo does not filter VLANs, so network.vlan 20 would have no effect"
    assert "ip link set lo type bridge vlan_filtering 1" in (error.value.hint or "")


def test_addresses_in_a_dhcp_range_are_reported(plan: Make, driver: Any) -> None:
    said: list[str] = []
    warn_of_dhcp(driver, plan(network=on("lan")), said.append)
    warn_of_dhcp(driver, plan(network=on("lan", firstIp="10.7.0.40")), said.append)
    warn_of_dhcp(driver, plan(), said.append)
    (line,) = said
    assert "the addresses of etcd1, etcd2 are in the DHCP range 10.7.0.30 to 10.7.0.32 of the network lan" in line
