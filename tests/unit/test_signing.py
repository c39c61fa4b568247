"""Certificates from an external CA, for which OpenSSL signs the requests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.errors import InputError, UnsignedError
from generator.operations.baked_cluster import open_cluster
from generator.operations.rotate_ca import rotate_authorities
from generator.pki import Role
from generator.pki.ca_phases import kept_authority
from generator.seed import iso
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
REQUESTS = FOLDER / "requests"


class SigningCa:
    """An external CA that signs requests with OpenSSL."""

    def __init__(self, plan: Callable[..., Any]) -> None:
        self.credential = pki.create_authority(plan(), now=datetime.now(UTC))
        Path("corp.pem").write_bytes(self.credential.cert_pem)
        Path("corp.key").write_bytes(self.credential.key_pem)
        Path("more.cnf").write_text("authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\ncertificatePolicies=1.2.3.4\n")

    def sign(self, *requests: Path, words: tuple[str, ...] = ("-copy_extensions", "copy")) -> None:
        for request in requests:
            line = ["openssl", "x509", "-req", "-in", request, "-CA", "corp.pem", "-CAkey", "corp.key", "-days", "30"]
            line += ["-extfile", "more.cnf", "-out", request.with_suffix(".pem"), *words]
            subprocess.run(list(map(str, line)), check=True, capture_output=True)


@pytest.fixture
def ca(bake: Bake, plan: Callable[..., Any], tool: Callable[[str], str]) -> SigningCa:
    tool("openssl")
    return SigningCa(plan)


@pytest.fixture
def run_bake(bake: Bake, ca: SigningCa) -> Callable[..., Any]:
    """Return a function that runs `bake` for a cluster with the external CA."""
    Path("cluster.yaml").write_text("apiVersion: bake/v1\nnodes: 2\npki: {ca: {certificate: corp.pem}}\n")
    return lambda *words: bake(*words, "--config", "cluster.yaml")


def requests() -> list[Path]:
    return sorted(REQUESTS.rglob("*.csr"))


def test_missing_certificates_are_requested_and_nothing_is_baked(run_bake: Bake) -> None:
    result = run_bake()
    assert (result.code, result.out) == (3, "")
    assert "an external CA must issue 7 certificates" in result.err
    assert result.err.endswith(", then run the same command again\n")
    assert [str(path.relative_to(REQUESTS)) for path in requests()] == [
        *(f"etcd{number}/etcd-{role}.csr" for number in (1, 2) for role in ("client", "peer", "server")),
        "operator/etcd-client.csr",
    ]
    for path in requests():
        assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in FOLDER.iterdir()} == {"identity", "input.yaml", "manifest.json", "requests"}
    with pytest.raises(UnsignedError, match="an external CA must issue 7 certificates"):
        open_cluster(Store(Path("out"), "etcd"))


@pytest.mark.parametrize("words", [("certs",), ("certs", "rotate"), ("seal",), ("verify",)], ids=" ".join)
def test_a_cluster_that_waits_for_certificates_is_recognized(
    run_bake: Bake, ca: SigningCa, bake: Bake, picture: Picture, words: tuple[str, ...]
) -> None:
    run_bake()
    before = picture(Path("out"))
    result = bake(*words)
    assert (result.code, "there is no cluster" in result.err) == (3, False)
    assert "an external CA must issue 7 certificates" in result.err
    assert f"let the CA sign each .csr below {REQUESTS.absolute()}" in result.err
    assert result.err.rstrip().endswith(", then run bake")
    assert picture(Path("out")) == before
    ca.sign(*requests()[:3])
    assert "an external CA must issue 4 certificates" in bake(*words).err
    ca.sign(*requests()[3:])
    result = bake(*words)
    assert (result.code, "every certificate has been issued" in result.err) == (3, True)
    assert result.err.endswith("hint: run bake\n")


def test_the_hint_names_the_cluster_that_waits_for_certificates(ca: SigningCa, bake: Bake) -> None:
    Path("own.yaml").write_text("name: own\nnodes: 1\npki: {domain: etcd.internal, ca: {certificate: corp.pem}}\n")
    assert bake("--config", "own.yaml", "--out", "a b").code == 3
    place = ("--name", "own", "--out", "a b")
    again = f"run bake --name own --out '{Path('a b').absolute()}'\n"
    assert bake("certs", *place).err.endswith(f", then {again}")
    ca.sign(*Path("a b/own/requests").rglob("*.csr"))
    assert bake("certs", *place).err.endswith(f"hint: {again}")
    assert bake(*place).code == 0


def test_a_second_bake_keeps_the_requests(run_bake: Bake, bake: Bake, picture: Picture) -> None:
    run_bake()
    before = picture(Path("out"))
    for again in (run_bake, bake):  # a bake without options keeps the fields
        assert again().code == 3
        assert picture(Path("out")) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [(("--nodes", 1), "etcd2: its keys are deleted"), (("--config", "none.yaml"), "pending certificate requests")],
    ids=["a node", "the CA"],
)
def test_keys_of_pending_requests_are_not_deleted_without_confirmation(
    run_bake: Bake, bake: Bake, picture: Picture, words: tuple[object, ...], text: str
) -> None:
    run_bake()
    before = picture(Path("out"))
    Path("none.yaml").write_text("nodes: 2\n")
    result = bake(*words)
    assert (result.code, picture(Path("out"))) == (2, before)
    assert text in result.err


def test_a_request_has_the_extensions_that_a_node_needs(run_bake: Bake) -> None:
    run_bake()
    words = ["openssl", "req", "-in", str(REQUESTS / "etcd2/etcd-server.csr"), "-noout", "-text", "-verify"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    for text in ("CN = etcd2", "DNS:etcd2.etcd.internal, IP Address:192.168.20.32", "TLS Web Server Authentication"):
        assert text in shown


def test_a_node_with_the_name_shared_does_not_share_its_certificates(run_bake: Bake, ca: SigningCa) -> None:
    text = Path("cluster.yaml").read_text().replace("nodes: 2", "nodes: [{name: etcd1}, {name: shared}]")
    Path("cluster.yaml").write_text(text)
    assert run_bake().code == 3
    ca.sign(*requests())
    assert run_bake().code == 0
    keys = [_server_key(name) for name in ("etcd1", "shared")]
    assert keys[0] != keys[1]


def test_all_nodes_get_the_shared_certificates(run_bake: Bake, ca: SigningCa) -> None:
    text = Path("cluster.yaml").read_text()
    Path("cluster.yaml").write_text(text.replace("corp.pem}", "corp.pem}, certificates: shared"))
    assert run_bake().code == 3
    names = {path.parent.name for path in requests()}
    assert "shared" in names
    ca.sign(*requests())
    assert run_bake().code == 0
    assert _server_key("etcd1") == _server_key("etcd2")


def _server_key(node: str) -> bytes:
    files = iso.written_files((FOLDER / node / "user-data").read_bytes(), where="")
    (key,) = (content for path, content in files.items() if str(path).endswith("etcd-server.key"))
    return key


def test_issued_certificates_are_baked(run_bake: Bake, ca: SigningCa, picture: Picture) -> None:
    run_bake()
    keys = {path: path.with_suffix(".key").read_bytes() for path in requests()}
    ca.sign(*requests())
    issued = {path: path.with_suffix(".pem").read_bytes() for path in requests()}
    assert run_bake().code == 0
    assert not REQUESTS.exists()
    files = iso.written_files((FOLDER / "etcd2/user-data").read_bytes(), where="")
    server = REQUESTS / "etcd2/etcd-server.csr"
    assert files["/etc/etcd/pki/etcd-server.key"] == keys[server]
    leaf = pki.parse_certificate(files["/etc/etcd/pki/etcd-server.pem"], where="")
    assert leaf == pki.parse_certificate(issued[server], where="")
    assert files["/etc/etcd/pki/etcd-ca.pem"] == Path("corp.pem").read_bytes()
    assert not (FOLDER / "pki/etcd-ca.key").exists()
    before = picture(Path("out"))
    assert "Nothing changed" in run_bake().err
    assert picture(Path("out")) == before


def test_certificates_issued_so_far_are_kept(run_bake: Bake, ca: SigningCa) -> None:
    run_bake()
    ca.sign(*requests()[:3])
    result = run_bake()
    assert (result.code, "an external CA must issue 4 certificates" in result.err) == (3, True)
    ca.sign(*requests()[3:])
    assert run_bake().code == 0


BAD: dict[str, tuple[Callable[[SigningCa, Path], object], str]] = {
    "without its names": (lambda ca, path: ca.sign(path, words=()), "does not name etcd1.etcd.internal, 19"),
    "another's": (
        lambda ca, path: (
            ca.sign(path.with_name("etcd-peer.csr")),
            path.with_name("etcd-peer.pem").rename(path.with_suffix(".pem")),
        ),
        "has a public key that differs from the key in the request",
    ),
    "its own": (
        lambda ca, path: ca.sign(path, words=("-copy_extensions", "copy", "-subj", "/CN=other")),
        "has the common name other, not etcd1",
    ),
    "none": (lambda ca, path: path.with_suffix(".pem").write_text("signed!"), "is not a PEM certificate"),
}  # fmt: skip


@pytest.mark.parametrize(("respond", "rule"), BAD.values(), ids=BAD)
def test_a_certificate_that_does_not_match_is_refused(
    run_bake: Bake, ca: SigningCa, picture: Picture, respond: Callable[[SigningCa, Path], object], rule: str
) -> None:
    run_bake()
    path = REQUESTS / "etcd1/etcd-server.csr"
    respond(ca, path)
    before = picture(Path("out"))
    for words in ((), ("check",)):
        result = run_bake(*words)
        assert result.code == 2
        assert f"{path.with_suffix('.pem')}: {rule}" in result.err
    assert picture(Path("out")) == before


def test_a_certificate_of_another_ca_is_refused(run_bake: Bake, ca: SigningCa, plan: Callable[..., Any]) -> None:
    run_bake()
    SigningCa(plan).sign(REQUESTS / "operator/etcd-client.csr")
    Path("corp.pem").write_bytes(ca.credential.cert_pem)
    result = run_bake()
    assert (result.code, "operator/etcd-client.pem: was not issued by the cluster's CA" in result.err) == (2, True)


def test_new_certificates_are_requested_before_the_old_ones_expire(
    run_bake: Bake, bake: Bake, ca: SigningCa, picture: Picture
) -> None:
    run_bake()
    ca.sign(*requests())
    run_bake()
    seeds = {node: (FOLDER / node / "seed.iso").read_bytes() for node in ("etcd1", "etcd2")}
    assert bake("certs", "rotate", "etcd2", "--connect", "test:///none").code == 3
    assert [path.parent.name for path in requests()] == ["etcd2"] * 3
    before = picture(Path("out"))
    assert run_bake().code == 0, "the old certificates are still used"
    assert picture(Path("out")) == before, "the requests stay"
    ca.sign(*requests())
    assert run_bake().code == 0
    now = {node: (FOLDER / node / "seed.iso").read_bytes() for node in seeds}
    assert {node for node in seeds if now[node] != seeds[node]} == {"etcd2"}
    assert not REQUESTS.exists()


def test_an_external_ca_cannot_be_changed(run_bake: Bake, ca: SigningCa) -> None:
    run_bake()
    ca.sign(*requests())
    run_bake()
    cluster = open_cluster(Store(Path("out"), "etcd"))
    following = {Role.CA: kept_authority(pki.create_authority(cluster.plan, now=datetime.now(UTC)), None)}
    with pytest.raises(InputError, match="the cluster's folder does not have the CA key"):
        rotate_authorities(
            cluster, None, following, passphrase=None, now=datetime.now(UTC), seconds=1, report=print,
            all_phases=True,
        )


def test_certificates_of_etcd_users_are_requested(run_bake: Bake, ca: SigningCa, picture: Picture) -> None:
    path = Path("cluster.yaml")
    path.write_text(path.read_text() + "auth: {enabled: true, users: [{name: app1}]}\n")
    run_bake()
    names = ("app1", "nobody")
    asked = {str(one.relative_to(REQUESTS)) for one in requests()}
    assert {f"users/{name}/etcd-client.csr" for name in names} == {one for one in asked if one.startswith("users")}
    ca.sign(*requests())
    assert run_bake().code == 0
    for name in names:
        pair = [(FOLDER / f"pki/users/{name}.{kind}").read_bytes() for kind in ("pem", "key")]
        made = pki.parse_credential(pair[0], pair[1], where=("", "")).certificate
        assert pki.is_issued_by(made, ca.credential.certificate)
    before = picture(Path("out"))
    assert run_bake().code == 0
    assert picture(Path("out")) == before
