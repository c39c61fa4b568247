"""Rules that involve several fields: accepted specs and warnings. tests/hostile/catalogue.py has refused specs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.config.load import load
from generator.config.rules import check_spec, node_count
from generator.config.spec import ClusterSpec, read_spec
from generator.errors import InputError

BIG = "9" * 29
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
        ({"nodes": 2}, ["2 members tolerate only as many failures as 1 member"]),
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


NODES = [{"name": f"n{number}", "address": f"10.9.9.{number}"} for number in (11, 12, 13)]
INSIDE = {"subnet": "10.9.9.0/24"}
FIRST = [{"name": "n1", "address": "10.9.9.1"}]
RSA_SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"


@pytest.fixture
def errors(tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """Return a function that returns the errors in a cluster file, each with its field."""

    def found(fields: dict[str, Any]) -> list[str]:
        file = tmp_path / "c.yaml"
        file.write_text(json.dumps(fields))
        with pytest.raises(InputError) as error:
            load(config=file)
        return [f"{one.where.rpartition(' ')[2]}: {one.message}" for one in error.value.problems]

    return found


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"network": {"subnet": "10.9.9.300/24"}}, "network.subnet: '10.9.9.300/24' is not a network"),
        ({"network": {"cidr": "10.9.9.0/24"}}, "network.cidr: there is no field 'cidr'"),
        ({"netwrk": INSIDE}, "netwrk: there is no field 'netwrk'"),
        ({"network": "10.9.9.0/24"}, "network: '10.9.9.0/24' is not a section of fields"),
        ({"network": {"subnet": "127.0.0.0/8"}}, "network.subnet: 127.0.0.0/8 is not a network for hosts"),
        (
            {"network": {"subnet": "10.9.8.0/24", "gateway": "10.9.9.1"}},
            "network.subnet: 10.9.8.0/24 contains none of the addresses 10.9.9.11, 10.9.9.12, 10.9.9.13, 10.9.9.1",
        ),
        (
            {"network": {"subnet": "fd00::/64"}},
            "network.subnet: fd00::/64 contains none of the addresses 10.9.9.11, 10.9.9.12, 10.9.9.13",
        ),
        ({}, "network.subnet: 192.168.20.0/24 contains none of the addresses 10.9.9.11, 10.9.9.12, 10.9.9.13"),
    ],
)
def test_a_wrong_subnet_is_a_single_error(
    errors: Callable[[dict[str, Any]], list[str]], fields: dict[str, Any], cause: str
) -> None:
    """The errors of the nodes' addresses follow from it."""
    (found,) = errors({"nodes": NODES, "firewall": {"clientCidrs": ["10.0.0.0/8"]}, **fields})
    assert found.startswith(cause)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"network": {"mode": "brige", "bridge": "br0"}}, "network.mode: 'brige' is not one of"),
        ({"install": {"method": "tar", "archive": "x"}}, "install.method: 'tar' is not one of"),
        ({"network": {**INSIDE, "gateway": "10.9.9.300", "firstIp": "10.9.9.1"}}, "network.gateway: '10.9.9.300' is"),
        ({"network": {**INSIDE, "gateway": "10.9.9.300"}, "nodes": FIRST}, "network.gateway: '10.9.9.300' is"),
        ({"network": {**INSIDE, "gateway": "10.9.9.2", "firstIp": "10.9.9.300"}}, "network.firstIp: '10.9.9.300' is"),
        ({"etcd": {"version": "9.x", "options": {"feature-gates": "a=true"}}}, "etcd.version: '9.x' is"),
        ({"pki": {"keyType": "rsa"}, "etcd": {"cipherSuites": [RSA_SUITE]}}, "pki.keyType: 'rsa' is"),
    ],
)
def test_a_wrong_word_is_a_single_error(
    errors: Callable[[dict[str, Any]], list[str]], fields: dict[str, Any], cause: str
) -> None:
    (found,) = errors(fields)
    assert found.startswith(cause)


@pytest.mark.parametrize(
    ("wrong", "rest"),
    [
        ({"foo": 1}, {"nodes": NODES}),
        ({"network": {"gateway": "x"}}, {"network": {"subnet": "10.0.0.0/31"}}),
        ({"etcd": {"version": "9.x"}}, {"etcd": {"peerPort": 2379}}),
    ],
)
def test_a_wrong_field_hides_no_error_of_other_fields(
    errors: Callable[[dict[str, Any]], list[str]], wrong: dict[str, Any], rest: dict[str, Any]
) -> None:
    shared = {name: {**wrong[name], **rest[name]} for name in wrong if name in rest}
    assert {*errors(rest)} < {*errors({**wrong, **rest, **shared})}


@pytest.mark.parametrize(
    ("fields", "fields_with_errors"),
    [
        ({"nodes": ["a", "b", "c"]}, ["nodes[0]", "nodes[1]", "nodes[2]"]),
        ({"nodes": ["a", {"name": "b"}, {"name": "b"}]}, ["nodes[0]", "nodes[2].name"]),
        ({"install": {"method": "archive", "archive": "x", "sha256": "00"}}, ["install.sha256"]),
        ({"install": {"method": "archive", "archive": 5, "sha256": "0" * 64}}, ["install.archive"]),
        ({"vm": {"image": "https://example.org/a.qcow2", "sha256": "00"}}, ["vm.sha256"]),
        ({"network": {"mode": "bridge", "bridge": "a b"}}, ["network.bridge"]),
    ],
)
def test_a_field_with_an_invalid_value_has_a_single_error(
    errors: Callable[[dict[str, Any]], list[str]], fields: dict[str, Any], fields_with_errors: list[str]
) -> None:
    """A rule would see the field's default instead of the value."""
    assert [one.partition(":")[0] for one in errors(fields)] == fields_with_errors


def test_an_address_that_two_fields_have_is_named_once(errors: Callable[[dict[str, Any]], list[str]]) -> None:
    nodes = [{"name": name, "address": "10.9.9.11"} for name in ("n1", "n2")]
    assert "network.subnet: 192.168.20.0/24 contains none of the addresses 10.9.9.11" in errors({"nodes": nodes})


def test_the_address_outside_the_subnet_is_named_if_others_are_inside(
    errors: Callable[[dict[str, Any]], list[str]],
) -> None:
    nodes = [*NODES, {"name": "n4", "address": "10.9.8.1"}, {"name": "n5", "address": "10.9.8.2"}]
    assert errors({"nodes": nodes, "network": INSIDE}) == [
        "nodes[3].address: 10.9.8.1 (node n4) is outside the subnet 10.9.9.0/24",
        "nodes[4].address: 10.9.8.2 (node n5) is outside the subnet 10.9.9.0/24",
    ]


def test_a_wrong_number_of_nodes_hides_no_other_error(errors: Callable[[dict[str, Any]], list[str]]) -> None:
    many = [{"name": "etcd1", "address": "10.9.9.11"}] * 9
    assert errors({"nodes": 9, "network": {"firstIp": "10.9.9.9"}}) == [
        "nodes: 9 is not between 1 and 7",
        "network.firstIp: 10.9.9.9 (node etcd1) is outside the subnet 192.168.20.0/24",
    ]
    assert errors({"nodes": 0, "network": {"firstIp": "10.9.9.9"}})[1:] == [
        "network.firstIp: 10.9.9.9 (node etcd1) is outside the subnet 192.168.20.0/24"
    ]
    assert {one.partition(".")[2].partition(":")[0] for one in errors({"nodes": many, "network": INSIDE})[1:]} == {
        "name", "address"
    }  # fmt: skip
    assert errors({"nodes": [], "network": {"firstIp": "10.9.9.9"}})[0] == "nodes: 0 is not between 1 and 7"


def test_a_hint_has_the_address_family_of_the_subnet(tmp_path: Path) -> None:
    hints = {}
    for subnet in ("10.0.0.0/31", "fd00::/127", "127.0.0.0/8", "::1/128"):
        (_, _, hints[subnet]), *_ = check_spec(read_spec({"network": {"subnet": subnet}})[0])[0]
    assert hints == {
        "10.0.0.0/31": "use a /24, for example", "fd00::/127": "use a /64, for example",
        "127.0.0.0/8": "use a network such as 192.168.20.0/24", "::1/128": "use a network such as fd00:20::/64",
    }  # fmt: skip


def test_a_zone_of_a_network_is_refused(errors: Callable[[dict[str, Any]], list[str]]) -> None:
    """A zone is valid on one machine only. Python's ip_network ignores it."""
    (found,) = errors({"network": {"subnet": "fd00::%eth0/64"}})
    assert found == "network.subnet: 'fd00::%eth0/64' is not a network in CIDR notation"


@pytest.mark.parametrize("name", ["a" * 41, "a" * 64, "A"])
def test_a_clusters_name_has_one_limit(errors: Callable[[dict[str, Any]], list[str]], name: str) -> None:
    rule = "is not a host name label: 1 to 40 of a-z, 0-9 and '-', no '-' at either end (RFC 1123)"
    assert errors({"name": name}) == [f"name: {name!r} {rule}"]


def test_nodes_are_counted_in_both_notations() -> None:
    assert node_count(ClusterSpec(nodes=5)) == 5
    assert node_count(read_spec({"nodes": [{"name": "a"}, {"name": "b"}]})[0]) == 2


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": 5}, "name: 5 is not a string; put it in quotes"),
        ({"name": True}, "name: true is not a string; put it in quotes"),
        ({"name": None}, "name: null is not a string"),
        ({"nodes": "3"}, "nodes: '3' is not a valid integer; remove the quotes"),
        ({"nodes": "three"}, "nodes: 'three' is not a valid integer"),
        ({"nodes": BIG}, f"nodes: '{BIG}' is not a valid integer: it has more than 19 digits"),
        ({"vm": {"cpus": f"-{BIG}"}}, f"vm.cpus: '-{BIG}' is not a valid integer: it has more than 19 digits"),
        ({"vm": {"memory": False}}, "vm.memory: false is not a valid integer"),
        ({"access": {"rootShell": "true"}}, "access.rootShell: 'true' is not true or false; remove the quotes"),
        ({"pki": {"subject": {"organization": 5}}}, "pki.subject.organization: 5 is not a string; put it in quotes"),
    ],
)
def test_a_value_of_another_type_is_shown_as_in_the_file(
    errors: Callable[[dict[str, Any]], list[str]], fields: dict[str, Any], problem: str
) -> None:
    assert errors(fields) == [problem]


@pytest.mark.parametrize("nodes", [0, -1, 9, 10**19])
def test_a_wrong_number_of_nodes_has_no_errors_that_follow_from_it(
    errors: Callable[[dict[str, Any]], list[str]], nodes: int
) -> None:
    network = {"subnet": "10.0.0.0/29", "firstIp": "10.0.0.6"}
    assert errors({"nodes": nodes, "network": network}) == [f"nodes: {nodes} is not between 1 and 7"]
