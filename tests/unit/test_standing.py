"""`pki.peerName` and `pki.peerCa`: defaults for new clusters and kept values of existing clusters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator import pki
from generator.config.pki import PeerName
from generator.config.placement import with_peer_defaults
from generator.config.spec import read_spec
from generator.operations.baked_cluster import open_cluster
from generator.seed import iso
from generator.store.folder import Store

FOLDER = Path("out/etcd")
Bake = Callable[..., Any]
OLD = "apiVersion: bake/v1\nnodes: 2\npki: {peerName: none, peerCa: {separate: false}}\n"


@pytest.fixture
def old(bake: Bake) -> None:
    """Bake a folder as an older version did, without `pki.peerName` and with one CA."""
    Path("old.yaml").write_text(OLD)
    assert bake("--config", "old.yaml").code == 0
    rewrite("cluster.yaml", "  peerName: none\n", "")
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    del manifest["files"]["input.yaml"]
    (FOLDER / "input.yaml").unlink()
    (FOLDER / "manifest.json").write_text(json.dumps(manifest))


def test_a_field_missing_in_an_older_cluster_names_its_origin(bake: Bake, old: None) -> None:
    """The message does not name the profile, from which `leafDays`, the nearest field in `pki`, comes."""
    result = bake("--profile", "hardened", "--yes")
    assert result.code == 0, result.err
    assert "hardened.yaml" not in result.err
    where = f"{FOLDER.absolute()}/cluster.yaml (written by an older version of bake): pki.peerName: none: the peer port"
    assert f"warning: {where}" in result.err
    remedy = "set pki.peerName to 'required'; if the cluster runs, first set 'stated' and run bake certs rotate"
    assert remedy in result.err


def test_an_older_cluster_keeps_the_name_constraints_of_its_ca(bake: Bake) -> None:
    """Older versions had no `pki.nameConstraints`, and their CAs limit names and addresses."""
    Path("all.yaml").write_text("nodes: 1\npki: {nameConstraints: all}\n")
    assert bake("--config", "all.yaml").code == 0
    rewrite("cluster.yaml", "  nameConstraints: all\n", "")
    rewrite("input.yaml", "  pki:\n    nameConstraints: all\n", "")
    result = bake("check")
    assert (result.code, "nameConstraints: all\n" in result.out) == (0, True)
    assert "pki.nameConstraints all, not names" in bake().err


def rewrite(name: str, old: str, new: str) -> None:
    """Change a file and its entry in the manifest."""
    path, listed = FOLDER / name, FOLDER / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    manifest = json.loads(listed.read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    listed.write_text(json.dumps(manifest))


def changed(result: Any) -> set[str]:
    assert result.code == 0, result.err
    return set(json.loads(result.out)["changed"])


def conf(node: str = "etcd1") -> str:
    return iso.written_files((FOLDER / node / "user-data").read_bytes(), where="")["/etc/etcd/etcd.conf"].decode()


def peer_names(node: str = "etcd1") -> list[str]:
    pem = iso.written_files((FOLDER / node / "user-data").read_bytes(), where="")["/etc/etcd/pki/etcd-peer.pem"]
    return [name for name in pki.describe(pem).names if ".peers." in name]


def resolved(bake: Bake, *words: str) -> tuple[str, bool]:
    stated = yaml.safe_load(bake("check", *words).out)["pki"]
    return stated["peerName"], stated["peerCa"]["separate"]


def test_a_new_cluster_requires_the_peer_name_and_has_two_cas(bake: Bake) -> None:
    assert resolved(bake) == ("required", True)
    assert resolved(bake, "--profile", "hardened") == ("required", True)
    assert resolved(bake, "--profile", "classic") == ("required", False)
    bake("--nodes", 2)
    assert 'ETCD_PEER_CERT_ALLOWED_HOSTNAME="etcd.peers.etcd.internal"\n' in conf()
    assert peer_names("etcd1") == peer_names("etcd2") == ["etcd.peers.etcd.internal"]
    assert resolved(bake) == ("required", True)


KEPT = {"cluster.yaml", "input.yaml", "manifest.json", "last-bake.json"}  # files that say what the user wants


@pytest.mark.usefixtures("old")
def test_a_bake_without_options_keeps_peer_settings(bake: Bake) -> None:
    Path("mine.yaml").write_text("apiVersion: bake/v1\nnodes: 2\n")
    for words in (("--nodes", "2"), ("--config", "mine.yaml"), ("--config", str(FOLDER / "cluster.yaml"))):
        assert changed(bake(*words, "-o", "json")) <= KEPT
        assert resolved(bake, *words) == ("none", False)
    assert "ALLOWED" not in conf()
    assert peer_names() == []
    opened = open_cluster(Store(Path("out"), "etcd"))
    assert opened.plan.spec.pki.peer_name is PeerName.NONE
    assert opened.plan.spec.pki.peer_ca.separate is False


@pytest.mark.usefixtures("old")
def test_an_older_folder_is_read_with_its_behaviour(bake: Bake) -> None:
    """If an older folder lacks a field, the field gets the value that fits the older version."""
    opened = open_cluster(Store(Path("out"), "etcd"))
    assert (opened.plan.spec.pki.peer_name, opened.plan.spec.pki.peer_ca.separate) == (PeerName.NONE, False)


@pytest.mark.usefixtures("old")
def test_the_peer_name_is_required_only_when_every_peer_has_it(bake: Bake) -> None:
    """The first step is new certificates with the peer name, which running nodes load without a restart."""
    before = conf()
    for step in ("required", "stated", "required"):
        Path(f"{step}.yaml").write_text(OLD.replace("peerName: none", f"peerName: {step}"))
    early = bake("--config", "required.yaml")
    assert (early.code, "is `required`, but the peer certificates of etcd1, etcd2 lack the" in early.err) == (2, True)
    assert "first set pki.peerName to `stated`" in early.err
    assert bake("--config", "stated.yaml").code == 0
    assert (conf(), peer_names()) == (before, ["etcd.peers.etcd.internal"])
    assert bake("--config", "required.yaml").code == 0
    assert "ETCD_PEER_CERT_ALLOWED_HOSTNAME" in conf()


@pytest.mark.usefixtures("old")
def test_an_existing_cluster_gets_no_second_ca(bake: Bake) -> None:
    Path("two.yaml").write_text("apiVersion: bake/v1\nnodes: 2\npki: {peerCa: {separate: true}}\n")
    result = bake("--config", "two.yaml")
    rule = "the value is `true`, but this cluster's value is `false`"
    assert (result.code, rule in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    "change",
    ["peerName: none", "domain: other.test", "certificates: shared", "peerName: stated, domain: other.test"],
)
def test_peer_certificates_keep_a_required_peer_name(bake: Bake, change: str) -> None:
    """A running node would refuse a node that has a new certificate without the name."""
    stated = "apiVersion: bake/v1\nnodes: 2\npki: {singleLabelNames: true, %s}\n"
    for name, more in (("before", ""), ("after", change), ("between", "peerName: stated"), ("none", "peerName: none")):
        Path(f"{name}.yaml").write_text(stated % more)
    assert bake("--config", "before.yaml").code == 0
    result = bake("--config", "after.yaml")
    rule = "the running nodes require peer-cert-allowed-hostname etcd.peers.etcd.internal in peer certificates"
    assert (result.code, rule in result.err) == (2, True), result.err
    for step in ("between", "none", "after"):
        assert bake("--config", f"{step}.yaml").code == 0


def test_a_separate_peer_ca_without_separate_true_is_refused(bake: Bake, old: None) -> None:
    Path("mine.yaml").write_text("apiVersion: bake/v1\nnodes: 2\npki: {peerCa: {certificate: a.pem, key: b.pem}}\n")
    result = bake("--config", "mine.yaml")
    said = "certificate: has no effect: pki.peerCa.separate is false"
    assert (result.code, said in result.err) == (2, True), result.err


def test_shared_peer_certificates_are_known_by_their_common_name(bake: Bake) -> None:
    Path("shared.yaml").write_text(OLD.replace("{peerName", "{certificates: shared, peerName"))
    assert bake("--config", "shared.yaml").code == 0
    names = peer_names()
    Path("shared.yaml").write_text(OLD.replace("{peerName: none", "{certificates: shared, peerName: required"))
    assert bake("--config", "shared.yaml").code == 0
    assert 'ETCD_PEER_CERT_ALLOWED_CN="etcd-peer"\n' in conf()
    assert peer_names() == names == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (True, "required")),
        ({"pki": {"ca": {"certificate": "a", "key": "b"}}}, (False, "required")),
        ({"pki": {"ca": {"certificate": "a"}, "peerCa": {"certificate": "c"}}}, (True, "required")),
        ({"pki": {"peerCa": {"certificate": "c", "key": "d"}}}, (True, "required")),
        ({"etcd": {"options": {"peer-cert-allowed-cn": "x"}}}, (True, "none")),
        ({"pki": {"peerName": "none", "peerCa": {"separate": False}}}, (False, "none")),
    ],
)
def test_peer_defaults_depend_on_other_fields(fields: dict[str, Any], expected: tuple[bool, str]) -> None:
    spec, wrong = read_spec(fields)
    pki_spec = with_peer_defaults(spec).pki
    assert (wrong, (pki_spec.peer_ca.separate, str(pki_spec.peer_name))) == ([], expected)


def test_two_checks_of_peer_names_are_refused(bake: Bake) -> None:
    """etcd would not start with both checks."""
    text = "apiVersion: bake/v1\npki: {peerName: required}\netcd: {options: {peer-cert-allowed-cn: etcd-peer}}\n"
    Path("both.yaml").write_text(text)
    result = bake("--config", "both.yaml")
    assert (result.code, "pki.peerName: 'required' conflicts with" in result.err) == (2, True)


def test_a_peer_port_open_to_every_client_causes_a_warning(bake: Bake) -> None:
    Path("open.yaml").write_text(OLD)
    warning = bake("--config", "open.yaml").err
    assert "none: the peer port accepts every certificate of the CA" in warning
    assert "if the cluster runs, first set 'stated' and run bake certs rotate" in warning
    Path("open.yaml").write_text(OLD.replace("none", "stated"))
    warning = bake("--config", "open.yaml").err
    assert "set pki.peerName to 'required' when bake certs shows that every node serves its new certificate" in warning
    assert "first set 'stated'" not in warning


@pytest.mark.parametrize("command", [(), ("check",)])
def test_requiring_the_peer_name_shows_its_precondition(bake: Bake, command: tuple[str, ...]) -> None:
    """The certificates in the folder have the peer name, but bake cannot know whether the nodes use them."""
    Path("cluster.yaml").write_text(OLD.replace("none", "stated"))
    assert "every node serves" not in bake("--config", "cluster.yaml", "-q").err
    Path("cluster.yaml").write_text(OLD.replace("none", "required"))
    said = bake(*command, "--config", "cluster.yaml").err
    assert "~ pki.peerName: stated → required (run `bake certs rotate`; do not restart a node" in said


def test_the_next_step_for_a_sealed_cluster_is_different(bake: Bake) -> None:
    assert "\n  bake seal\n" in bake("--nodes", 2).err
    assert bake("seal", "--yes").code == 0
    said = bake("--memory", 2048, "--leaf-days", 90).err
    assert "bake seal" not in said
    assert "reboot the node, and wait until its console reports `settled`" in said


def test_the_level_of_each_change_of_a_sealed_cluster_is_shown(bake: Bake) -> None:
    bake("--nodes", 3)
    bake("seal", "--yes")
    words = ("--nodes", 4, "--memory", 2048, "--tls-min-version", "1.3", "--network-mode", "isolated")
    checked, done = bake("check", *words, "-o", "json"), bake(*words)
    found = {each["name"]: each["level"] for each in json.loads(checked.out)["changes"]}
    assert found == {"etcd4": "live", "vm.memory": "reboot", "etcd.tlsMinVersion": "restart", "network.mode": "refused"}
    for said in (checked.err, done.err):
        assert "+ node etcd4: 192.168.20.34 [live]\n" in said
        assert "~ vm.memory: 1024 → 2048 [reboot]\n" in said
        assert "~ etcd.tlsMinVersion: 1.2 → 1.3 [restart]\n" in said
        assert "~ network.mode: nat → isolated [refused] (running VMs and containers keep" in said
    assert done.code == 0


@pytest.mark.usefixtures("old")
def test_a_cluster_with_a_newly_refused_option_can_still_be_opened(bake: Bake) -> None:
    rewrite("cluster.yaml", "  options:\n", "  options:\n    wal-dir: /var/lib/etcd/wal\n")
    assert open_cluster(Store(Path("out"), "etcd")).plan.spec.etcd.options["wal-dir"] == "/var/lib/etcd/wal"
    assert bake("certs").code == 0
    result = bake()
    assert result.code == 2
    assert "out/etcd/cluster.yaml:" in result.err
    assert "wal-dir" in result.err
