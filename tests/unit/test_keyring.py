"""The cluster's CA: encrypted keys, existing CAs, name constraints and separate peer CAs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from generator import pki
from generator.config.pki import KeyType
from generator.operations.baked_cluster import open_cluster
from generator.pki import Credential
from generator.seed import iso
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
CA_KEY = FOLDER / "pki/etcd-ca.key"
WORD = "correct horse battery"


@pytest.fixture
def word(bake: Bake, tmp_path: Path, quick_scrypt: None) -> list[str]:
    """Return the option `--ca-passphrase-file` with the path of a new passphrase file."""
    (tmp_path / "word").write_text(f"{WORD}\nwhat follows is not of it\n")
    return ["--ca-passphrase-file", "word"]


def test_with_a_passphrase_no_plain_key_is_written(bake: Bake, word: list[str], picture: Picture) -> None:
    assert bake("--nodes", 1, *word).code == 0
    assert CA_KEY.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert CA_KEY.stat().st_mode & 0o777 == 0o600
    before = picture(Path("out"))
    result = bake("--nodes", 1, *word)
    assert (result.code, "Nothing changed" in result.err) == (0, True)
    assert picture(Path("out")) == before


def test_the_next_bake_encrypts_only_a_plain_ca_key(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1)
    plain = CA_KEY.read_bytes()
    result = bake("--nodes", 1, *word, "-o", "json")
    changed = {"pki/etcd-ca.key", "pki/etcd-peer-ca.key", "manifest.json", "last-bake.json"}
    assert set(json.loads(result.out)["changed"]) == changed
    assert key_numbers(CA_KEY.read_bytes(), WORD.encode()) == key_numbers(plain)
    secret = plain.splitlines()[1]
    assert [path for path in Path("out").rglob("*") if path.is_file() and secret in path.read_bytes()] == []


def key_numbers(pem: bytes, word: bytes | None = None) -> object:
    key: Any = load_pem_private_key(pem, word)
    return key.private_numbers()


def test_adding_nodes_needs_the_passphrase_and_keeps_the_key(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1, *word)
    before = CA_KEY.read_bytes()
    assert bake("--nodes", 3, *word).code == 0
    assert CA_KEY.read_bytes() == before


@pytest.mark.parametrize("command", [(), ("check",)])
def test_a_bake_without_the_passphrase_is_refused(
    bake: Bake, word: list[str], picture: Picture, command: tuple[str, ...]
) -> None:
    bake("--nodes", 1, *word)
    before = picture(Path("out"))
    result = bake(*command, "--nodes", 1)
    assert result.code == 2
    assert f"{CA_KEY}: is encrypted, but no passphrase was given\n  hint: give --ca-passphrase-file" in result.err
    assert picture(Path("out")) == before


def test_a_wrong_passphrase_is_refused_and_not_printed(bake: Bake, word: list[str], picture: Picture) -> None:
    bake("--nodes", 1, *word)
    before = picture(Path("out"))
    Path("word").write_text("incorrect horse")
    result = bake("--nodes", 1, *word)
    assert result.code == 2
    assert f"{CA_KEY}: cannot be decrypted with this passphrase" in result.err
    assert result.err.count("error: ") == 1
    assert "horse" not in result.err + result.out
    assert picture(Path("out")) == before


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(missing_ok=True), "word cannot be read: No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "word cannot be read: Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "the first line of word is not 1 to 1024 bytes long"),
    "an empty line": (lambda path: path.write_bytes(b"\r\nx"), "the first line of word is not 1 to 1024"),
    "endless": (lambda path: path.write_bytes(b"x" * 1025), "the first line of word is not 1 to 1024"),
}


@pytest.mark.parametrize(("prepare", "rule"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_without_a_passphrase_is_refused(
    bake: Bake, word: list[str], prepare: Callable[[Path], object], rule: str
) -> None:
    prepare(Path("word"))
    result = bake("--nodes", 1, *word)
    assert result.code == 2
    assert f"--ca-passphrase-file: {rule}" in result.err
    assert not Path("out").exists()


def test_a_terminal_asks_for_a_needed_passphrase(
    bake: Bake, word: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: asked.append(prompt) or WORD)
    assert bake("--nodes", 1).code == 0
    assert asked == []
    bake("--nodes", 1, *word)
    assert bake("--nodes", 2).code == 0
    assert len(asked) == 1
    assert "Passphrase of the CA's key" in asked[0]


def test_read_only_commands_need_no_passphrase(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1, *word)
    assert open_cluster(Store(Path("out"), "etcd")).plan.name == "etcd"
    assert bake("seal", "--yes", "--connect", "test:///none").code != 2


def test_a_key_that_the_user_encrypted_is_unchanged(bake: Bake, word: list[str], plan: Any) -> None:
    authority = pki.create_authority(plan(), now=datetime.now(UTC))
    existing_ca = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(WORD.encode()))
    CA_KEY.parent.mkdir(parents=True)
    CA_KEY.with_suffix(".pem").write_bytes(authority.cert_pem)
    CA_KEY.write_bytes(existing_ca)
    assert bake("--nodes", 1, *word).code == 0
    assert CA_KEY.read_bytes() == existing_ca


@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P256, KeyType.RSA_2048])
def test_openssl_reads_the_key_only_with_the_passphrase(key_type: KeyType, tool: Callable[[str], str]) -> None:
    key = pki.generate_key(key_type)
    pem = pki.encrypt_key(key, b"word")
    words = [tool("openssl"), "pkey", "-pubout", "-passin"]
    read = subprocess.run([*words, "pass:word"], input=pem, capture_output=True, check=True)
    public = load_pem_private_key(pem, b"word").public_key()
    assert read.stdout == public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert subprocess.run([*words, "pass:other"], input=pem, capture_output=True, check=False).returncode != 0
    shown = subprocess.run([tool("openssl"), "asn1parse"], input=pem, capture_output=True, check=True).stdout
    assert all(name in shown for name in (b":PBES2", b":scrypt", b":4000", b":aes-256-cbc"))
    assert pki.encrypt_key(key, b"word") != pem, "each encryption uses another salt"


# ── existing CAs ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def existing_ca(bake: Bake, plan: Any) -> Credential:
    """Write a CA to ca.pem and ca.key, and a cluster.yaml with these paths."""
    authority = pki.create_authority(plan(), now=datetime.now(UTC))
    Path("ca.pem").write_bytes(authority.cert_pem)
    Path("ca.key").write_bytes(authority.key_pem)
    Path("cluster.yaml").write_text("pki: {ca: {certificate: ca.pem, key: ca.key}}\n")
    return authority


def test_an_existing_ca_is_used_and_copied_only_to_pki(
    bake: Bake, existing_ca: Credential, picture: Picture
) -> None:
    assert bake("--config", "cluster.yaml").code == 0
    assert CA_KEY.with_suffix(".pem").read_bytes() == existing_ca.cert_pem
    assert CA_KEY.stat().st_mode & 0o777 == 0o600
    secret = existing_ca.key_pem.splitlines()[1]
    holders = [path for path in Path("out").rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert holders == [CA_KEY]
    before = picture(Path("out"))
    Path("ca.key").unlink()
    Path("ca.pem").unlink()
    assert bake().code == 0, "the copies in the folder are enough"
    assert picture(Path("out")) == before


def test_an_encrypted_key_of_an_existing_ca_stays_encrypted(
    bake: Bake, existing_ca: Credential, word: list[str]
) -> None:
    Path("ca.key").write_bytes(pki.encrypt_key(existing_ca.key, WORD.encode()))
    refused = bake("--config", "cluster.yaml")
    assert (refused.code, "ca.key: is encrypted, but no passphrase" in refused.err) == (2, True)
    assert not Path("out/etcd").exists()
    assert bake("--config", "cluster.yaml", *word).code == 0
    assert key_numbers(CA_KEY.read_bytes(), WORD.encode()) == key_numbers(existing_ca.key_pem)


def test_another_ca_is_refused_for_an_existing_cluster(
    bake: Bake, existing_ca: Credential, plan: Any, picture: Picture
) -> None:
    bake("--config", "cluster.yaml")
    Path("ca.pem").write_bytes(pki.create_authority(plan(), now=datetime.now(UTC)).cert_pem)
    before = picture(Path("out"))
    result = bake("--config", "cluster.yaml")
    assert result.code == 2
    assert f"pki.ca.certificate: {Path('ca.pem').absolute()}: is not this cluster's CA" in result.err
    assert picture(Path("out")) == before


def short_lived(plan: Any) -> None:
    short = pki.create_authority(plan(pki={"caDays": 300, "leafDays": 9}), now=datetime.now(UTC))
    Path("ca.pem").write_bytes(short.cert_pem)
    Path("ca.key").write_bytes(short.key_pem)


def for_another_network(plan: Any) -> None:
    there = plan(network={"subnet": "10.9.0.0/24"}, pki={"nameConstraints": "all"})
    other = pki.create_authority(there, now=datetime.now(UTC))
    Path("ca.pem").write_bytes(other.cert_pem)
    Path("ca.key").write_bytes(other.key_pem)


def leaf(plan: Any) -> None:
    long, now = plan(pki={"leafDays": 3650}), datetime.now(UTC)
    client = pki.issue_client(long, pki.create_authority(long, now=now), now=now)
    Path("ca.pem").write_bytes(client.cert_pem)
    Path("ca.key").write_bytes(client.key_pem)


UNFIT: dict[str, tuple[Callable[[Any], object], str]] = {
    "no certificate": (lambda _: Path("ca.pem").unlink(), "pki.ca.certificate: ca.pem: is not a file"),
    "no key": (lambda _: Path("ca.key").unlink(), "pki.ca.key: ca.key: is not a file"),
    "a device": (lambda _: (Path("ca.key").unlink(), Path("ca.key").symlink_to("/dev/zero")), "ca.key: is not a file"),
    "no PEM": (lambda _: Path("ca.pem").write_text("x"), "pki.ca.certificate: ca.pem: is not a PEM certificate"),
    "another's key": (
        lambda _: Path("ca.key").write_bytes(pki.generate_key(KeyType.ECDSA_P256).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        "pki.ca.key: ca.key: does not match the certificate",
    ),
    "no CA": (leaf, "pki.ca.certificate: ca.pem: is not a CA certificate"),
    "ends too soon": (short_lived, "but certificates are valid for 364 days\n  hint: use a CA that expires later, or"),
    "for another network": (for_another_network, "may not issue certificates for 192.168.20.31, 192.168.20.32"),
}  # fmt: skip


@pytest.mark.parametrize("command", [(), ("check",)])
@pytest.mark.parametrize(("prepare", "rule"), UNFIT.values(), ids=UNFIT)
@pytest.mark.usefixtures("existing_ca")
def test_an_unusable_existing_ca_is_refused(
    bake: Bake, plan: Any, prepare: Callable[[Any], object], rule: str, command: tuple[str, ...]
) -> None:
    prepare(plan)
    result = bake(*command, "--config", "cluster.yaml")
    assert result.code == 2
    assert rule in result.err.replace(f"{Path.cwd()}/", "")
    assert result.err.count("error: ") == 1
    assert not FOLDER.exists()


# ── name constraints ────────────────────────────────────────────────────────────────────────────────────────


def test_names_that_the_ca_cannot_certify_are_refused(bake: Bake, picture: Picture) -> None:
    Path("all.yaml").write_text("pki: {nameConstraints: all}")
    bake("--nodes", 3, "--config", "all.yaml")
    before = picture(Path("out"))
    for words, name in (
        (("--subnet", "10.1.0.0/24"), "10.1.0.31"),
        (("--config", "cluster.yaml"), "etcd1.example.test"),
    ):
        Path("cluster.yaml").write_text("pki: {domain: example.test, nameConstraints: all}")
        result = bake("--nodes", 3, *words)
        assert result.code == 2
        assert f"{CA_KEY.with_suffix('.pem')}: may not issue certificates for {name}, " in result.err
        assert "its name constraints permit etcd.internal, 192.168.20.0/24, 127.0.0.0/8, ::1/128" in result.err
        assert picture(Path("out")) == before


@pytest.mark.parametrize("command", ["check", "bake"])
def test_other_name_constraints_wait_for_the_next_ca(bake: Bake, command: str) -> None:
    bake("--nodes", 3)
    (FOLDER / "sealed").write_text("")
    before = CA_KEY.with_suffix(".pem").read_bytes()
    Path("all.yaml").write_text("nodes: 3\npki: {nameConstraints: all}\n")
    result = bake(*([command] if command == "check" else []), "--config", "all.yaml", "-o", "json")
    assert (result.code, CA_KEY.with_suffix(".pem").read_bytes()) == (0, before)
    field = next(change for change in json.loads(result.out)["changes"] if change["kind"] == "field")
    assert field == {
        "change": "~", "kind": "field", "name": "pki.nameConstraints", "old": "names", "new": "all", "level": "none",
        "lost": None,
    }  # fmt: skip
    named = {change["name"] for change in json.loads(result.out)["changes"]}
    assert not named & {"etcd2/seed.iso", "etcd3/seed.iso"}, "nodes get no new certificates"


def test_bake_says_that_the_ca_keeps_its_name_constraints(bake: Bake) -> None:
    bake("--nodes", 3)
    (FOLDER / "sealed").write_text("")
    Path("all.yaml").write_text("nodes: 3\npki: {nameConstraints: none}\n")
    said = "~ pki.nameConstraints: names → none [none] (the existing CA keeps its name constraints; to replace the CA,"
    assert said in bake("check", "--config", "all.yaml").err
    assert said in bake("--config", "all.yaml").err


def test_a_ca_without_name_constraints_is_kept(bake: Bake, picture: Picture, plan: Any) -> None:
    free = pki.create_authority(plan(pki={"extensions": "document"}), now=datetime.now(UTC))
    CA_KEY.parent.mkdir(parents=True)
    CA_KEY.with_suffix(".pem").write_bytes(free.cert_pem)
    CA_KEY.write_bytes(free.key_pem)
    Path("one.yaml").write_text("apiVersion: bake/v1\nnodes: 3\npki: {peerCa: {separate: false}}\n")
    assert bake("--config", "one.yaml").code == 0
    before = picture(Path("out"))
    result = bake("--nodes", 3)
    assert (result.code, "Nothing changed" in result.err, "warning" in result.err) == (0, True, False)
    assert picture(Path("out")) == before
    assert bake("--nodes", 3, "--subnet", "10.1.0.0/24").code == 0


# --- identity and permit --------------------------------------------------------------------------------------


def test_a_cluster_keeps_its_identity(bake: Bake) -> None:
    bake("--nodes", 1)
    first = (FOLDER / "identity").read_text()
    bake("--nodes", 2)
    assert (FOLDER / "identity").read_text() == first
    bake("--nodes", 1, "--name", "other")
    assert Path("out/other/identity").read_text() != first


def test_a_cluster_without_an_identity_file_keeps_its_identity(bake: Bake) -> None:
    """Older versions derived the cluster's id, which tags its VMs, from the CA's digest."""
    bake("--nodes", 1)
    (FOLDER / "identity").unlink()
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    del manifest["files"]["identity"]
    (FOLDER / "manifest.json").write_text(json.dumps(manifest))
    old = hashlib.sha256((FOLDER / "pki/etcd-ca.pem").read_bytes()).hexdigest()
    assert open_cluster(Store(Path("out"), "etcd")).cluster_id == old[:16]
    bake("--nodes", 1)
    assert (FOLDER / "identity").read_text() == f"{old}\n"
    assert f'BAKE_PERMIT="etcd-{old[:32]}"' in (FOLDER / "etcd1/user-data").read_text()


@pytest.mark.parametrize("words", [(), ("check",), ("certs",), ("seal", "--yes"), ("destroy", "--yes")], ids=" ".join)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_lost_identity_is_not_replaced(bake: Bake, picture: Picture, sealed: bool, words: tuple[str, ...]) -> None:
    bake("--nodes", 1)
    if sealed:
        (FOLDER / "sealed").write_text("")
    (FOLDER / "identity").unlink()
    before = picture(FOLDER)
    result = bake(*words)
    assert (result.code, picture(FOLDER)) == (2, before)
    where = f"{(FOLDER / 'identity').absolute()}: is missing"
    assert result.err == f"error: {where}\n  hint: restore the missing file\n"


def test_an_identity_that_bake_did_not_write_is_refused(bake: Bake) -> None:
    bake("--nodes", 1)
    (FOLDER / "identity").write_text("mine\n")
    result = bake("--nodes", 1)
    assert (result.code, f"{FOLDER}/identity: has content that bake did not write" in result.err) == (2, True)


def test_a_cluster_of_an_older_version_gets_a_secret_permit(bake: Bake) -> None:
    """BAKE_PERMIT stays the cluster's id, because running nodes refuse a new seed with another BAKE_PERMIT."""
    bake("--nodes", 1)
    identity = (FOLDER / "identity").read_text().strip()
    (FOLDER / "pki/bootstrap-permit").unlink()
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    del manifest["files"]["pki/bootstrap-permit"]
    (FOLDER / "manifest.json").write_text(json.dumps(manifest))
    (FOLDER / "etcd1/bootstrap-permit").write_text(f"etcd-{identity}\n")
    bake("--nodes", 1)
    permit = (FOLDER / "etcd1/bootstrap-permit").read_text()
    assert permit == (FOLDER / "pki/bootstrap-permit").read_text() != f"etcd-{identity}\n"
    assert f'BAKE_PERMIT="etcd-{identity}"' in (FOLDER / "etcd1/user-data").read_text()


@pytest.mark.parametrize("words", [(), ("check",)], ids=["bake", "check"])
def test_a_permit_that_is_lost_before_the_seal_is_not_replaced(
    bake: Bake, picture: Picture, words: tuple[str, ...]
) -> None:
    """A new permit takes effect on a running first node at its next boot, but the new SHA-256 immediately."""
    bake("--nodes", 2)
    kept = picture(FOLDER / "etcd1")
    lost, copy = ((FOLDER / place / "bootstrap-permit").absolute() for place in ("pki", "etcd1"))
    lost.unlink()
    before = picture(FOLDER)
    result = bake(*words)
    assert (result.code, picture(FOLDER)) == (2, before)
    assert f"error: {lost}: is missing\n  hint: copy {copy} to this path\n" in result.err
    lost.write_bytes(copy.read_bytes())
    lost.chmod(0o600)
    assert "Nothing changed" in bake().err
    assert picture(FOLDER / "etcd1") == kept
    for path in (lost, copy):
        path.unlink()
    assert "hint: restore the file from a backup; if the cluster runs, you can seal it instead\n" in bake(*words).err


def test_a_permit_that_is_lost_after_the_seal_is_replaced_with_a_warning(bake: Bake) -> None:
    bake("--nodes", 2)
    bake("seal", "--yes")
    lost = (FOLDER / "pki/bootstrap-permit").absolute()
    lost.unlink()
    result = bake()
    assert result.code == 0
    assert f"warning: {lost} is missing, so bake makes a new permit, and each node gets a new seed\n" in result.err
    assert lost.exists()


# --- damaged seeds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 40, 5000, 100_000])
def test_a_truncated_seed_is_refused_with_the_same_remedy_everywhere(bake: Bake, picture: Picture, size: int) -> None:
    """The start of user-data can be valid YAML that lacks keys, which bake would silently issue again."""
    bake("--nodes", 2, "--name", "prod")
    path = Path("out/prod/etcd2/user-data").absolute()
    path.write_bytes(path.read_bytes()[:size])
    before = picture(Path("out"))
    Path("pass").write_text("correct horse\n")
    Path("pass").chmod(0o600)
    remedy = "remove the file and run bake --name prod, which issues new certificates and keys for etcd2"
    says = f"error: {path}: is not user-data that bake wrote\n  hint: restore the file from a backup, or {remedy}\n"
    for words in ((), ("check",), ("certs",), ("show", "etcd2"), ("backup", "x.age", "--passphrase-file", "pass")):
        result = bake(*words, "--name", "prod")
        assert (result.code, says in result.err) == (2, True), (words, result.err)
    assert picture(Path("out")) == before
    path.unlink()
    done = bake("--name", "prod")
    assert done.code == 0
    assert f"warning: {path} is missing, so etcd2 gets new certificates and keys\n" in done.err
    assert bake("backup", "x.age", "--passphrase-file", "pass", "--name", "prod").code == 0


def test_a_permit_that_bake_did_not_write_is_refused(bake: Bake) -> None:
    bake("--nodes", 1)
    (FOLDER / "pki/bootstrap-permit").write_text("guess me\n")
    result = bake("--nodes", 1)
    assert result.code == 2
    assert f"{FOLDER}/pki/bootstrap-permit: has content that bake did not write" in result.err
    assert "guess me" not in result.err


# --- a separate CA for peers ----------------------------------------------------------------------------------


def test_peer_certificates_can_have_a_separate_ca(bake: Bake, word: list[str]) -> None:
    Path("apart.yaml").write_text("apiVersion: bake/v1\nnodes: 2\npki: {peerCa: {separate: true}}\n")
    assert bake("--config", "apart.yaml", *word).code == 0
    assert pki.is_encrypted((FOLDER / "pki/etcd-peer-ca.key").read_bytes())
    authorities = {name: (FOLDER / f"pki/{name}.pem").read_bytes() for name in ("etcd-ca", "etcd-peer-ca")}
    files = iso.written_files((FOLDER / "etcd2/user-data").read_bytes(), where="")
    for role, issuer in (("server", "etcd-ca"), ("client", "etcd-ca"), ("peer", "etcd-peer-ca")):
        leaf = pki.parse_certificate(files[f"/etc/etcd/pki/etcd-{role}.pem"], where="")
        assert pki.is_issued_by(leaf, pki.parse_certificate(authorities[issuer], where=""))
    assert files["/etc/etcd/pki/etcd-peer-ca.pem"] == authorities["etcd-peer-ca"]
    assert b'ETCD_PEER_TRUSTED_CA_FILE="/etc/etcd/pki/etcd-peer-ca.pem"\n' in files["/etc/etcd/etcd.conf"]
    assert b'ETCD_TRUSTED_CA_FILE="/etc/etcd/pki/etcd-ca.pem"\n' in files["/etc/etcd/etcd.conf"]
    again = bake("--config", "apart.yaml", *word)
    assert "Nothing changed" in again.err


def test_the_use_of_a_separate_peer_ca_cannot_change(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 2)
    before = picture(Path("out"))
    Path("one.yaml").write_text("apiVersion: bake/v1\nnodes: 2\npki: {peerCa: {separate: false}}\n")
    result = bake("--config", "one.yaml")
    rule = "pki.peerCa.separate: the value is `false`, but this cluster's value is `true`"
    assert (result.code, rule in result.err) == (2, True)
    assert picture(Path("out")) == before


# ── etcd's users ─────────────────────────────────────────────────────────────────────────────────

USERS = "auth: {enabled: true, users: [{name: app1}, {name: App.2}]}"


def test_each_etcd_user_has_a_client_certificate(bake: Bake) -> None:
    Path("cluster.yaml").write_text(USERS)
    assert bake("--nodes", 1, "--config", "cluster.yaml").code == 0
    folder = FOLDER / "pki/users"
    names = ("app1", "App.2", "nobody")
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("pem", "key")}
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    ca = pki.parse_certificate((FOLDER / "pki/etcd-ca.pem").read_bytes(), where="")
    for name in names:
        pair = [(folder / f"{name}.{kind}").read_bytes() for kind in ("pem", "key")]
        found = pki.parse_credential(pair[0], pair[1], where=("", "")).certificate
        assert pki.is_issued_by(found, ca)
        facts = pki.describe(pair[0])
        assert (f"CN={name}," in facts.subject, facts.names) == (True, ())
    assert not any("users" in path.name or "app1" in path.name for path in (FOLDER / "etcd1").iterdir())

    Path("cluster.yaml").write_text("auth: {enabled: true, users: [{name: app1}]}")
    assert bake("--nodes", 1, "--config", "cluster.yaml", "--yes").code == 0
    assert {path.stem for path in folder.iterdir()} == {"app1", "nobody"}
    Path("cluster.yaml").write_text("auth: false")
    assert bake("--nodes", 1, "--config", "cluster.yaml", "--yes").code == 0
    assert not folder.exists()


def test_user_certificates_are_kept_and_renewed(bake: Bake, picture: Picture) -> None:
    Path("cluster.yaml").write_text(USERS)
    words = ("--nodes", 1, "--config", "cluster.yaml", "--leaf-days", 10)
    bake(*words)
    before, first = picture(Path("out")), (FOLDER / "pki/users/app1.pem").read_bytes()
    assert "Nothing changed" in bake(*words).err
    assert picture(Path("out")) == before
    (FOLDER / "pki/users/app1.key").unlink()
    result = bake(*words)
    assert (result.code, "app1.key: the key is missing but its certificate exists" in result.err) == (2, True)
    (FOLDER / "pki/users/app1.pem").unlink()
    assert bake(*words).code == 0
    assert (FOLDER / "pki/users/app1.pem").read_bytes() != first
