"""Files of accepted specs: the programs that read them get the values of the spec, and run no code in a value.

`BAKE_EXAMPLES=20000` tests 20,000 cluster files, as `scripts/hostile --row specs` does.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from generator import pki
from generator.config import yaml12
from generator.config.fields import plain
from generator.config.load import load
from generator.config.spec import ClusterSpec
from generator.errors import InputError
from generator.plan import ClusterPlan, plan_cluster
from generator.seed import guest_files, iso
from generator.seed.first_boot import boot_commands, first_boot_commands
from tests.hostile.specs import CANARIES, CANARY, SPECS, Consumers, conf_values

EXAMPLES = int(os.environ.get("BAKE_EXAMPLES", "150"))


@pytest.fixture(scope="module")
def consumers(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str]) -> Iterator[Consumers]:
    for name in ("systemd-analyze", "dash", "busybox"):
        tool(name)
    found = Consumers(tmp_path_factory.mktemp("consumers"))
    yield found
    found.flush()


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "cluster.yaml"


@pytest.fixture(scope="module")
def credentials(plan: Any, now: datetime) -> pki.NodePki:
    """Return the certificates of a node. All tests use the same certificates, because generating keys takes long."""
    authority = pki.create_authority(plan(), now=now)
    return {pki.Role.CA: authority, **next(pki.issue_nodes(plan(), authority, now=now))}


def load_data(data: object, cluster_file: Path) -> ClusterSpec:
    cluster_file.write_text(yaml12.dump(data))
    return load(config=cluster_file).spec


def feed(plan: ClusterPlan, credentials: pki.NodePki, consumers: Consumers) -> None:
    """Read the files of the last node and of the operator with the programs that read them on real machines."""
    number, ca = len(plan.nodes) - 1, credentials[pki.Role.CA]
    node, trust = plan.nodes[number], guest_files.Trust(identity="0" * 32, ca_pem=ca.cert_pem)
    guest = {str(file.path): file for file in guest_files.guest_files(plan, node, trust, credentials)}
    user_data, meta_data, network = iso.seed_files(plan, node, guest.values())
    loaded = yaml.load(user_data.data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  it is safe
    assert {file["path"]: file["content"].encode() for file in loaded["write_files"]} == {
        path: file.data for path, file in guest.items()
    }
    assert loaded["bootcmd"] == boot_commands()
    assert loaded["runcmd"] == list(first_boot_commands(plan))
    assert loaded.get("packages", []) == list(plan.spec.install.packages)
    assert yaml.safe_load(meta_data.data)["local-hostname"] == node.name
    assert yaml.safe_load(network.data)["ethernets"]["eth0"]["match"]["macaddress"] == node.mac
    for file in (user_data, meta_data, network):
        assert file.data.isascii()
        assert CANARY.encode() not in file.data
    consumers.units |= {
        (file.path.name, file.data.decode()) for file in guest.values() if file.path.parent == guest_files.UNITS
    }
    consumers.scripts |= {"\n".join(loaded["runcmd"]), *loaded["bootcmd"]}
    consumers.scripts |= {file.data.decode() for file in guest.values() if file.data.startswith(b"#!/bin/sh")}
    consumers.add(guest[str(guest_files.ENV)].data, guest_files.hook_values(plan, node, trust.identity))
    consumers.add(guest[str(guest_files.CONF)].data, conf_values(plan, number))


def test_readers_accept_the_files_of_every_valid_spec(
    cluster_file: Path, credentials: pki.NodePki, consumers: Consumers
) -> None:
    tried: list[str] = []

    @given(data=SPECS)
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    def each(data: dict[str, Any]) -> None:
        spec = load_data(data, cluster_file)
        assert load_data(plain(spec), cluster_file) == spec
        feed(plan_cluster(spec), credentials, consumers)
        tried.append(spec.name)

    each()
    consumers.flush()
    assert len(tried) >= EXAMPLES


def text_fields(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every text in a cluster file."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from [(*path, key)] if isinstance(value, str) else text_fields(value, (*path, key))


FULL: dict[str, Any] = {
    "apiVersion": "bake/v1",
    "name": "etcd",
    "nodes": [{"name": "a", "address": "192.168.20.31", "mac": "3c:ec:ef:00:00:01"}, {"name": "b"}],
    "network": {
        "subnet": "192.168.20.0/24", "firstIp": "192.168.20.31", "gateway": "192.168.20.1",
        "dns": ["9.9.9.9"], "mode": "bridge", "bridge": "br0",
    },
    "pki": {
        "keyType": "ecdsa-p256", "certificates": "per-node", "extensions": "strict", "permissions": "acl",
        "nameConstraints": "all", "domain": "etcd.internal", "ca": {"certificate": "ca.pem", "key": "ca.key"},
        "peerName": "required", "peerCa": {"separate": True, "certificate": "peer.pem", "key": "peer.key"},
        "subject": dict.fromkeys(("state", "locality", "organization", "clientOrganization"), "x") | {"country": "CN"},
    },
    "auth": {
        "enabled": True,
        "users": [{"name": "app1", "roles": ["app"]}],
        "roles": [{"name": "app", "permissions": [{"access": "read", "prefix": "/x"}, {"key": "x"}]}],
    },
    "access": {
        "readers": ["backup"], "rootShell": True,
        "sshKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPy2Idwmp1bPrpUpfZqVKxg7Y0yDWT0yF3r8fNw0o5mT"],
    },
    "etcd": {
        "version": "3.5", "dataDir": "/var/lib/etcd/etcd", "token": "t",
        "tlsMinVersion": "1.2", "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        "options": {"host-whitelist": "x", "log-level": "info", "metrics": "basic"},
    },
    "firewall": {"kind": "nftables", "clientCidrs": ["10.0.0.0/8"]},
    "install": {"method": "archive", "packages": ["acl"], "archive": "x.tar.gz", "sha256": "0" * 64},
    "join": "learner",
    "vm": {"image": "x.qcow2", "sha256": "0" * 64, "firmware": "bios"},
}  # fmt: skip
# Fields with free text, for certificates or paths on the operator's machine. In other fields, the text is refused.
FREE = {("pki", "subject", name) for name in ("state", "locality", "organization", "clientOrganization")}
FREE |= {("install", "archive"), ("vm", "image")}
# The text fields of sections that exclude a field of FULL.
OTHERS: dict[tuple[str, ...], dict[str, Any]] = {("network", "name"): {"network": {"mode": "network", "name": "lan"}}}
IN_INCUS = {
    "engine": "incus", "install": {"method": "preinstalled"}, "vm": {},
    "incus": {"remote": "r", "project": "p", "pool": "d", "profile": "s", "nic": "bridged", "group": "g"},
}  # fmt: skip
OTHERS |= {("engine",): IN_INCUS} | {("incus", name): IN_INCUS for name in IN_INCUS["incus"]}
FREE |= {("pki", section, name) for section in ("ca", "peerCa") for name in ("certificate", "key")}


@pytest.mark.parametrize("path", [*text_fields(FULL), *OTHERS], ids=lambda path: ".".join(map(str, path)))
def test_shell_code_in_text_is_refused_or_never_runs(
    path: tuple[Any, ...], cluster_file: Path, credentials: pki.NodePki, consumers: Consumers
) -> None:
    taken = set()
    for canary in CANARIES:
        data = copy.deepcopy({**FULL, **OTHERS.get(path, {})})
        section: Any = data
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = canary
        try:
            spec = load_data(data, cluster_file)
        except InputError:
            continue
        taken.add(canary)
        feed(plan_cluster(spec), credentials, consumers)
    harmful = {canary for canary in CANARIES if CANARY in canary}
    free = {canary for canary in harmful if canary.isprintable() and path in FREE}
    assert taken & harmful == free


def test_every_text_field_was_tested() -> None:
    tested = [*text_fields(FULL), *OTHERS]
    named = {".".join(str(part) for part in path if not isinstance(part, int)) for path in tested}
    flags = {"pki.peerCa.separate", "network.vlan"}  # these settings are unset by default
    assert {name for name in _texts(plain(ClusterSpec(), with_none=True)) if name not in named} == flags


def _texts(data: Any, path: str = "") -> Iterator[str]:
    """Yield every setting that can be text."""
    for key, value in data.items():
        if isinstance(value, dict) and key != "options":
            yield from _texts(value, f"{path}{key}.")
        elif value is None or isinstance(value, str):
            yield f"{path}{key}"


def test_shell_code_runs_without_quotes(tmp_path: Path) -> None:
    """Check that the test would detect shell code in a value without quotes."""
    for text in ('A="$(touch canary)"\n', "A=x;touch canary\n"):
        consumers = Consumers(tmp_path / str(len(text)))
        consumers.add(text.encode(), {"A": ""})
        with pytest.raises(AssertionError):
            consumers.flush()
        assert (consumers.work / "canary").exists()
