"""What a cluster file may say: any combination of good values bakes, any bad one is one of the refused."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator import pki, render, seed, yaml12
from generator.errors import InputError
from generator.fields import plain, settings_of
from generator.pki import Role
from generator.plan import plan_cluster
from generator.profile import Loaded, load
from generator.spec import ClusterSpec, KeyType, read_spec

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)
CANARIES = st.sampled_from(
    [
        "$(touch canary)",
        "`touch canary`",
        "';touch canary;'",
        '";touch canary;"',
        "{{7*7}}",
        "%n",
        "a: b",
        "1e3",
    ]
)
TEXT = st.one_of(PRINTABLE, CANARIES)
DOMAINS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A section with any of its fields."""
    return st.fixed_dictionaries({}, optional=fields)


NODES = st.one_of(
    st.integers(1, 7),
    st.lists(LABELS.map(lambda name: {"name": name}), min_size=1, max_size=7, unique_by=lambda n: n["name"]),
)
MODES = st.sampled_from(["nat", "isolated"])
COUNTRIES = st.from_regex("[A-Z]{2}", fullmatch=True)
SPECS = some(
    name=LABELS,
    nodes=NODES,
    network=st.one_of(
        some(subnet=st.sampled_from(["10.0.0.0/8", "172.16.5.0/24", "192.168.20.0/28"]), mode=MODES),
        some(subnet=st.just("fd00:20::/64"), dns=st.just(["fd00:20::53"])),
    ),
    pki=some(
        keyType=st.sampled_from(["ecdsa-p256", "ecdsa-p384"]),
        leafDays=st.integers(2, 3650),
        certificates=st.sampled_from(["per-node", "shared"]),
        extensions=st.sampled_from(["strict", "document"]),
        domain=DOMAINS,
        singleLabelNames=st.booleans(),
        subject=some(country=COUNTRIES, state=TEXT, organization=TEXT, clientOrganization=TEXT),
    ),
    etcd=some(
        version=st.sampled_from(["3.5", "3.6"]),
        clientPort=st.integers(3000, 65535),
        token=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        options=some(**{"heartbeat-interval": st.integers(1, 999), "pre-vote": st.booleans()}),
    ),
    firewall=some(kind=st.sampled_from(["none", "firewalld", "iptables", "nftables", "ufw"])),
    join=st.sampled_from(["learner", "voter"]),
    vm=some(memory=st.integers(256, 99999), image=TEXT.filter(lambda text: "://" not in text)),
)  # fmt: skip


def load_data(data: object, path: Any) -> Loaded:
    path.write_text(yaml12.dump(data))
    return load(config=path)


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("spec") / "cluster.yaml"


@pytest.fixture(scope="module")
def keys() -> Callable[[KeyType], pki.PrivateKey]:
    return pki.generate_key


@given(data=SPECS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_any_good_spec_bakes_cleanly(data: dict[str, Any], cluster_file: Any, now: datetime) -> None:
    spec = load_data(data, cluster_file).spec
    assert load_data(plain(spec), cluster_file).spec == spec
    plan = plan_cluster(spec)
    authority = pki.create_authority(plan, now=now)
    for node, credentials in zip(plan.nodes, pki.issue_nodes(plan, authority, now=now), strict=True):
        guest = list(render.guest_files(plan, node, authority.cert_pem, credentials))
        user_data, meta_data, network = seed.seed_files(plan, node, guest)
        assert seed.written_files(user_data.data, where="") == {str(file.path): file.data for file in guest}
        assert yaml.safe_load(meta_data.data)["local-hostname"] == node.name
        assert yaml.safe_load(network.data)["ethernets"]["eth0"]["match"]["macaddress"] == node.mac
        for file in guest:
            if file.path.name in ("etcd.conf", "bake.env", "etcd.service"):
                assert file.data.isascii()
                assert all(part not in file.data for part in (b"canary", b"{{", b"$("))
        assert pki.is_current(credentials[Role.CLIENT], _client(plan, node), authority, now=now)


def _client(plan: Any, node: Any) -> pki.CertProfile:
    shared = plan.spec.pki.certificates == "shared"
    return (pki.shared_profiles(plan) if shared else pki.node_profiles(plan, node))[Role.CLIENT]


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a cluster file, sections included."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in items for found in ((*path, key), *leaves(value, (*path, key)))]


JUNK = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    CANARIES,
    st.sampled_from(["255.255.255.255/32", "::/0", "fe80::1"]),
)
FULL = plain(ClusterSpec(), with_none=True) | {
    "nodes": [{"name": "a", "address": "192.168.20.31"}, {"name": "b"}]
}


@given(path=st.sampled_from(leaves(FULL)), junk=JUNK)
@settings(max_examples=400)
def test_junk_anywhere_is_accepted_or_refused_and_never_a_crash(
    path: tuple[Any, ...], junk: object, cluster_file: Any
) -> None:
    data = copy.deepcopy(FULL)
    section: Any = data
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = junk
    with contextlib.suppress(InputError):
        plan_cluster(load_data(data, cluster_file).spec)


@given(
    data=st.recursive(
        JUNK, lambda inner: st.dictionaries(st.sampled_from([*FULL, "x"]), inner, max_size=4), max_leaves=8
    )
)
@settings(max_examples=200)
def test_junk_of_any_shape_is_accepted_or_refused_and_never_a_crash(data: object, cluster_file: Any) -> None:
    with contextlib.suppress(InputError):
        plan_cluster(load_data(data, cluster_file).spec)


def all_settings(kind: type) -> list[Any]:
    """Every setting of a spec, those of its sections included."""
    return [
        found
        for info in settings_of(kind).values()
        for found in (all_settings(info.metadata["section"]) if "section" in info.metadata else [info])
    ]


def test_every_field_has_a_remedy_to_show() -> None:
    assert len(all_settings(ClusterSpec)) > 30
    assert [info for info in all_settings(ClusterSpec) if not info.metadata["description"]] == []


def test_addresses_are_addresses() -> None:
    spec = read_spec({"network": {"firstIp": "192.168.20.50"}})[0]
    assert spec.network.first_ip == ip_address("192.168.20.50")
