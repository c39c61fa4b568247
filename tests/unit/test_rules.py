"""Rules across values: what is fine, and what deserves a word. (What is refused: tests/hostile/catalogue.)"""

from __future__ import annotations

from typing import Any

import pytest

from generator.rules import check_spec, node_count
from generator.spec import ClusterSpec, read_spec

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
def test_is_fine(fields: dict[str, Any]) -> None:
    assert check_spec(read_spec(fields)[0])[0] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nodes": 3}, []),
        ({"nodes": 4}, ["4 is an even number of members: it survives no more failures than 3"]),
        ({"join": "voter"}, ["each join stops writes"]),
        ({"join": "voter", "nodes": 1}, []),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8"]}}, ["without 192.168.20.1, which is this machine's address"]),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8", "192.168.20.0/28"]}}, []),
        ({"firewall": {"clientCidrs": ["10.0.0.0/8"], "kind": "none"}}, []),
    ],
)
def test_deserves_a_word(fields: dict[str, Any], words: list[str]) -> None:
    warnings = [message for _, message, _ in check_spec(read_spec(fields)[0])[1]]
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_counts_nodes_however_they_are_given() -> None:
    assert node_count(ClusterSpec(nodes=5)) == 5
    assert node_count(read_spec({"nodes": [{"name": "a"}, {"name": "b"}]})[0]) == 2
