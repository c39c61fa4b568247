"""The files in the guest: paths, modes and content."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.artifact import Artifact
from generator.plan import ClusterPlan
from generator.seed import guest_files

Plan = Callable[..., ClusterPlan]
CA_PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
TRUST = guest_files.Trust(identity="0" * 32, ca_pem=CA_PEM, peer_ca_pem=CA_PEM)


@pytest.fixture(scope="module")
def guest(plan: Plan, now: Any) -> Callable[..., dict[str, Artifact]]:
    def make(index: int = 0, **fields: Any) -> dict[str, Artifact]:
        wanted = plan(**fields)
        credentials = list(pki.issue_nodes(wanted, pki.create_authority(wanted, now=now), now=now))[index]
        return {
            str(file.path): file
            for file in guest_files.guest_files(wanted, wanted.nodes[index], TRUST, credentials)
        }

    return make


def settings(file: Artifact) -> dict[str, str]:
    """Return the variables that systemd and sh read from an env file."""
    lines = [line for line in file.data.decode().splitlines() if line and not line.startswith("#")]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def test_only_private_keys_are_secret(guest: Any) -> None:
    files = guest()
    secret = {path for path, file in files.items() if file.secret}
    assert secret == {path for path, file in files.items() if b"PRIVATE KEY" in file.data}
    assert secret == {f"/etc/etcd/pki/etcd-{role}.key" for role in ("server", "peer", "client")}
    assert {files[path].mode for path in secret} == {0o600}


def test_scripts_are_executable_and_units_are_not(guest: Any) -> None:
    for path, file in guest().items():
        assert (file.mode == 0o755) == file.data.startswith(b"#!"), path


def test_each_node_has_different_settings(guest: Any) -> None:
    first, second = (settings(guest(index)["/etc/etcd/etcd.conf"]) for index in (0, 1))
    assert (first["ETCD_NAME"], second["ETCD_NAME"]) == ("etcd1", "etcd2")
    assert (first["ETCD_INITIAL_CLUSTER_STATE"], second["ETCD_INITIAL_CLUSTER_STATE"]) == ("new", "existing")
    assert second["ETCD_LISTEN_PEER_URLS"] == "https://192.168.20.32:2380"
    assert first["ETCD_INITIAL_CLUSTER_TOKEN"] == second["ETCD_INITIAL_CLUSTER_TOKEN"]


def test_all_urls_use_tls(guest: Any) -> None:
    conf = settings(guest()["/etc/etcd/etcd.conf"])
    assert "http://" not in str(conf)
    assert conf["ETCD_CLIENT_CERT_AUTH"] == conf["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
    assert not {"ETCD_AUTO_TLS", "ETCD_PEER_AUTO_TLS"} & set(conf)


def test_every_file_in_the_settings_is_written(guest: Any) -> None:
    files = guest()
    named = re.findall(
        r"/etc/etcd/pki/[^\"\n]+",
        (files["/etc/etcd/etcd.conf"].data + files["/etc/etcd/bake.env"].data).decode(),
    )
    assert len(set(named)) == 8
    assert set(named) <= set(files)


def test_the_token_is_unique_to_the_cluster(plan: Plan) -> None:
    assert guest_files.cluster_token(plan(), "1" * 32) != guest_files.cluster_token(plan(), "2" * 32)
    assert guest_files.cluster_token(plan(etcd={"token": "mine"}), "1" * 32) == "mine"


def test_options_are_in_the_settings(guest: Any) -> None:
    options = {"heartbeat-interval": 200, "pre-vote": False, "auto-compaction-retention": "1h"}
    conf = settings(guest(etcd={"options": options})["/etc/etcd/etcd.conf"])
    assert conf["ETCD_HEARTBEAT_INTERVAL"] == "200"
    assert conf["ETCD_PRE_VOTE"] == "false"
    assert conf["ETCD_AUTO_COMPACTION_RETENTION"] == "1h"


def test_the_scripts_get_every_member(guest: Any) -> None:
    env = settings(guest(1)["/etc/etcd/bake.env"])
    assert env["BAKE_NAME"] == "etcd2"
    assert env["BAKE_BOOTSTRAP"] == "no"
    assert env["BAKE_MEMBERS"].split() == [
        f"etcd{number}=https://192.168.20.3{number}:2380" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("kind", ["none", "firewalld", "iptables", "nftables", "ufw"])
def test_only_a_firewall_has_a_script(guest: Any, kind: str) -> None:
    files = guest(firewall={"kind": kind})
    assert ("/usr/libexec/bake/etcd-firewall" in files) == (kind != "none")
    assert settings(files["/etc/etcd/bake.env"])["BAKE_FIREWALL"] == kind


NODES = ["192.168.20.31", "192.168.20.32", "192.168.20.33"]


@pytest.mark.parametrize(
    ("stated", "allowed"),
    [
        ([], ["0.0.0.0/0"]),
        (["subnet"], ["192.168.20.0/24", *NODES]),
        (["10.0.0.0/8", "subnet"], ["10.0.0.0/8", "192.168.20.0/24", *NODES]),
    ],
)
def test_nodes_can_always_reach_the_client_port(guest: Any, stated: list[str], allowed: list[str]) -> None:
    """A joining node sends its requests to the client ports of other nodes."""
    env = settings(guest(firewall={"clientCidrs": stated})["/etc/etcd/bake.env"])
    assert env["BAKE_CLIENT_CIDRS"].split() == allowed


def test_only_root_can_read_the_settings(guest: Any) -> None:
    files = guest()
    assert {files[f"/etc/etcd/{name}"].mode for name in ("etcd.conf", "bake.env")} == {0o600}


@pytest.mark.parametrize("shell", ["dash", "busybox"])
def test_a_shell_reads_the_same_settings(
    guest: Any, tool: Callable[[str], str], tmp_path: Path, shell: str
) -> None:
    (tmp_path / "env").write_bytes(guest()["/etc/etcd/bake.env"].data)
    words = [
        tool(shell),
        *(["sh"] if shell == "busybox" else []),
        "-euc",
        '. ./env; printf "%s" "$BAKE_MEMBERS"',
    ]
    shown = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown == settings(guest()["/etc/etcd/bake.env"])["BAKE_MEMBERS"]


@pytest.mark.parametrize("value", ['a"b', "a\\b", "$HOME", "`id`", "a\nb", "a\0b"], ids=repr)
def test_an_env_file_refuses_values_that_need_quotes(value: str) -> None:
    with pytest.raises(ValueError, match="need escaping: A"):
        guest_files.env_file({"A": value, "B": "good"})


def test_credentials_are_found_in_the_files(guest: Any) -> None:
    files = {path: file.data for path, file in guest().items()}
    found = guest_files.node_credentials(files)
    assert set(found) == {"etcd-server", "etcd-peer", "etcd-client"}
    assert found[pki.Role.PEER] == (
        files["/etc/etcd/pki/etcd-peer.pem"],
        files["/etc/etcd/pki/etcd-peer.key"],
    )
    del files["/etc/etcd/pki/etcd-peer.key"]
    assert pki.Role.PEER not in guest_files.node_credentials(files)


def test_only_tls_settings_that_differ_from_etcds_defaults_are_written(guest: Any) -> None:
    names = ("ETCD_TLS_MIN_VERSION", "ETCD_CIPHER_SUITES")
    suites = ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]

    def conf(**etcd: Any) -> list[str | None]:
        return [settings(guest(etcd=etcd)["/etc/etcd/etcd.conf"]).get(name) for name in names]

    assert conf() == [None, None]
    assert conf(tlsMinVersion=1.3) == ["TLS1.3", None]
    assert conf(cipherSuites=suites) == [None, ",".join(suites)]


def test_without_auth_a_node_has_no_auth_files(guest: Any) -> None:
    files = guest()
    assert not [path for path in files if "auth" in path]
    assert b"auth" not in files["/etc/systemd/system/etcd-promote.service"].data
    assert "BAKE_AUTH" not in settings(files["/etc/etcd/bake.env"])


def test_nodes_and_operator_are_users_by_their_common_names(guest: Any, plan: Plan) -> None:
    for how in ("per-node", "shared"):
        fields = {"auth": True, "pki": {"certificates": how}}
        files = [guest(index, **fields) for index in range(3)]
        users = json.loads(files[0]["/etc/etcd/auth.json"].data)["users"]
        certificates = [pki.describe(one["/etc/etcd/pki/etcd-client.pem"].data).subject for one in files]
        names = {re.search("CN=([^,]+)", subject)[1] for subject in certificates}  # type: ignore[index]
        assert users == {name: ["root"] for name in ("root", "etcd-client", *names)}
        assert {one["/etc/etcd/auth.json"].data for one in files} == {files[0]["/etc/etcd/auth.json"].data}


def test_users_and_roles_match_the_spec(guest: Any) -> None:
    permissions = [{"prefix": "/app/"}, {"access": "read", "key": "--x"}]
    auth = {
        "enabled": True,
        "users": [{"name": "app1", "roles": ["app", "root"]}, {"name": "idle"}],
        "roles": [{"name": "app", "permissions": permissions}],
    }
    files = guest(auth=auth)
    said = json.loads(files["/etc/etcd/auth.json"].data)
    assert said["roles"] == {"app": [["--prefix=true", "readwrite", "/app/"], ["--prefix=false", "read", "--x"]]}
    assert {name: said["users"][name] for name in ("app1", "idle")} == {"app1": ["app", "root"], "idle": []}
    assert settings(files["/etc/etcd/bake.env"])["BAKE_AUTH"] == "/etc/etcd/auth.json"
    unit = files["/etc/systemd/system/etcd-promote.service"].data.decode()
    assert unit.index("ExecStart=/usr/libexec/bake/etcd-promote") < unit.index("ExecStart=/usr/libexec/bake/etcd-auth")
    assert files["/usr/libexec/bake/etcd-auth"].mode == 0o755
