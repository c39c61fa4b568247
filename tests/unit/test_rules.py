"""Rules that involve several fields: accepted specs and warnings. tests/hostile/catalogue.py has refused specs."""

from __future__ import annotations

from typing import Any

import pytest

from generator.config.rules import check_spec, node_count
from generator.config.spec import ClusterSpec, read_spec

FINE: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "one node": {"nodes": 1},
    "seven nodes": {"nodes": 7},
    "the smallest subnet": {"nodes": 1, "network": {"subnet": "10.0.0.0/30"}},
    "the last host": {"nodes": 1, "network": {"firstIp": "192.168.20.254"}},
    "IPv6": {"network": {"subnet": "fd00::/64"}},
    "IPv6, the first and last address": {
        "nodes": [{"name": "a", "address": "fd00::2"}, {"name": "b", "address": "fd00::ffff:ffff:ffff:ffff"}],
        "network": {"subnet": "fd00::/64"},
    },
    "the gateway at the end": {"network": {"gateway": "192.168.20.254", "firstIp": "192.168.20.1"}},
    "the longest names": {
        "nodes": [{"name": "a" * 63}],
        "pki": {"domain": f"{'b' * 63}.{'c' * 63}.{'d' * 60}"},
    },
    "leaf and CA end together": {"pki": {"caDays": 30, "leafDays": 30}},
    "an image by its path": {"vm": {"image": "debian.qcow2"}},
    "one client network per family": {"firewall": {"clientCidrs": ["10.0.0.0/8"]}},
}


@pytest.mark.parametrize("fields", FINE.values(), ids=FINE)
def test_a_spec_without_problems_is_accepted(fields: dict[str, Any]) -> None:
    assert check_spec(read_spec(fields)[0])[0] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nodes": 3}, []),
        ({"nodes": 4}, ["4 members tolerate only as many failures as 3 members"]),
        ({"join": "voter"}, ["'voter' can make the cluster unable"]),
        ({"join": "voter", "nodes": 1}, []),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8"]}}, ["lacks the gateway 192.168.20.1: the nodes refuse"]),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8", "192.168.20.0/28"]}}, []),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8"], "kind": "none"}}, []),
    ],
)
def test_a_warning_is_given(fields: dict[str, Any], words: list[str]) -> None:
    warnings = [message for _, message, _ in check_spec(read_spec(fields)[0])[1]]
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        ({"firstIp": "10.9.9.9"}, "10.9.9.9 (node etcd1) is outside the subnet 192.168.20.0/24"),
        ({"firstIp": "192.168.20.254"}, "192.168.20.255 (node etcd2) is the subnet's broadcast address"),
        ({"subnet": "10.0.0.0/31"}, "10.0.0.0/31 has no room for nodes and a gateway"),
        ({"subnet": "10.0.0.0/31", "firstIp": "10.0.0.1"}, "10.0.0.0/31 has no room for nodes and a gateway"),
        ({"subnet": "10.0.0.0/32"}, "10.0.0.0/32 has no room for nodes and a gateway"),
        ({"subnet": "fd00::/127"}, "fd00::/127 has no room for nodes and a gateway"),
    ],
)
def test_a_wrong_range_of_addresses_is_a_single_error(network: dict[str, str], rule: str) -> None:
    """One error for all three nodes is enough, because the hint is the same."""
    assert [message for _, message, _ in check_spec(read_spec({"network": network})[0])[0]] == [rule]


def test_each_wrong_stated_address_is_a_separate_error() -> None:
    nodes = [{"name": "a", "address": "10.9.9.9"}, {"name": "b", "address": "10.9.9.10"}]
    found = check_spec(read_spec({"nodes": nodes})[0])[0]
    assert [path for path, _, _ in found] == [("nodes", 0, "address"), ("nodes", 1, "address")]


def test_nodes_are_counted_in_both_notations() -> None:
    assert node_count(ClusterSpec(nodes=5)) == 5
    assert node_count(read_spec({"nodes": [{"name": "a"}, {"name": "b"}]})[0]) == 2
