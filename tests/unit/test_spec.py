"""Reading of cluster files with random valid and invalid values."""

from __future__ import annotations

import base64
import contextlib
import copy
from datetime import datetime
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator import pki
from generator.config import yaml12
from generator.config.fields import plain, settings_of
from generator.config.load import Loaded, load
from generator.config.spec import ClusterSpec, read_spec
from generator.errors import InputError
from generator.pki import Role
from generator.plan import plan_cluster
from tests.hostile.specs import CANARIES, SPECS


def load_data(data: object, path: Any) -> Loaded:
    path.write_text(yaml12.dump(data))
    return load(config=path)


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("spec") / "cluster.yaml"


@given(data=SPECS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_every_valid_spec_has_valid_certificates(data: dict[str, Any], cluster_file: Any, now: datetime) -> None:
    plan = plan_cluster(load_data(data, cluster_file).spec)
    authority = pki.create_authority(plan, now=now)
    for node, credentials in zip(plan.nodes, pki.issue_nodes(plan, authority, now=now), strict=True):
        assert pki.is_current(credentials[Role.CLIENT], _client(plan, node), authority, now=now)


def _client(plan: Any, node: Any) -> pki.CertProfile:
    shared = plan.spec.pki.certificates == "shared"
    return (pki.shared_profiles(plan) if shared else pki.node_profiles(plan, node))[Role.CLIENT]


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Yield the path of every value and section in a cluster file."""
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
    st.sampled_from(CANARIES),
    st.sampled_from(["255.255.255.255/32", "::/0", "fe80::1"]),
)
FULL = plain(ClusterSpec(), with_none=True) | {"nodes": [{"name": "a", "address": "192.168.20.31"}, {"name": "b"}]}


@given(path=st.sampled_from(leaves(FULL)), junk=JUNK)
@settings(max_examples=400)
def test_random_values_never_cause_a_crash(path: tuple[Any, ...], junk: object, cluster_file: Any) -> None:
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
def test_random_documents_never_cause_a_crash(data: object, cluster_file: Any) -> None:
    with contextlib.suppress(InputError):
        plan_cluster(load_data(data, cluster_file).spec)


def all_settings(kind: type) -> list[Any]:
    """Yield every setting of a spec and of its sections."""
    return [
        found
        for info in settings_of(kind).values()
        for found in (all_settings(info.metadata["section"]) if "section" in info.metadata else [info])
    ]


def test_every_field_has_a_description() -> None:
    assert len(all_settings(ClusterSpec)) > 30
    assert [info for info in all_settings(ClusterSpec) if not info.metadata["description"]] == []


def test_addresses_are_parsed() -> None:
    spec = read_spec({"network": {"firstIp": "192.168.20.50"}})[0]
    assert spec.network.first_ip == ip_address("192.168.20.50")


def ssh_key(name: str, comment: str = "", *, inside: str = "") -> str:
    """Return a public key with a zero as its numbers. `inside`: the type in the base64 text, if it differs."""
    encoded = (inside or name).encode()
    return f"{name} {base64.b64encode(len(encoded).to_bytes(4, 'big') + encoded + bytes(60)).decode()}{comment}"


@pytest.mark.parametrize("comment", ["", " me@laptop", ' "; rm -rf / #'])
@pytest.mark.parametrize(
    "name", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp384", "sk-ecdsa-sha2-nistp256@openssh.com"]
)
def test_ssh_public_keys(name: str, comment: str) -> None:
    key = ssh_key(name, comment)
    assert read_spec({"access": {"sshKeys": [key]}})[0].access.ssh_keys == (key,)


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (ssh_key("ssh-ed25519").partition(" ")[2], "is not an SSH public key"),
        (ssh_key("ssh-ed25519", inside="ssh-rsa"), "is not an SSH public key"),
        ("ssh-ed25519 AAAA", "is not an SSH public key"),
        (ssh_key("ssh-dss"), "is not an SSH public key"),
        (f'command="x" {ssh_key("ssh-rsa")}', "is not an SSH public key"),
        (ssh_key("ssh-rsa", "\nssh-rsa"), "is not an SSH public key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0", "is a private key; give the public key"),
        (7, "is not an SSH public key"),
    ],
)
def test_other_texts_are_no_ssh_keys(key: object, rule: str) -> None:
    (problem,) = read_spec({"access": {"sshKeys": [key]}})[1]
    assert rule in str(problem)
    assert "c2VjcmV0" not in str(problem)


@pytest.mark.parametrize(
    ("reader", "rule"),
    [("a b", "is not a user name"), ("-x", "is not a user name"), ("root", "can read every key already")],
)
def test_a_reader_cannot_be_root_or_etcd(reader: str, rule: str, cluster_file: Any) -> None:
    with pytest.raises(InputError) as error:
        load_data({"apiVersion": "bake/v1", "access": {"readers": ["backup", reader]}}, cluster_file)
    (problem,) = error.value.problems
    assert ("access.readers[1]" in str(problem), rule in str(problem)) == (True, True), problem
