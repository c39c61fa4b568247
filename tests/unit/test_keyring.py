"""The CA's key under a passphrase: how it gets there, who must know it, and what others make of the file."""

from __future__ import annotations

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
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from generator import cluster, pki
from generator.host.store import Store
from generator.spec import KeyType

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
CA_KEY = FOLDER / "pki/etcd-ca.key"
WORD = "correct horse battery"


@pytest.fixture
def word(bake: Bake, tmp_path: Path) -> list[str]:
    """The option that names a file with the passphrase."""
    (tmp_path / "word").write_text(f"{WORD}\nwhat follows is not of it\n")
    return ["--ca-passphrase-file", "word"]


def test_with_a_passphrase_the_key_is_never_there_in_plain(bake: Bake, word: list[str], picture: Picture) -> None:
    assert bake("--nodes", 1, *word).code == 0
    assert CA_KEY.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert CA_KEY.stat().st_mode & 0o777 == 0o600
    before = picture(Path("out"))
    result = bake("--nodes", 1, *word)
    assert (result.code, "Nothing changed" in result.err) == (0, True)
    assert picture(Path("out")) == before


def test_a_plain_key_is_encrypted_by_the_next_bake_and_nothing_else_changes(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1)
    plain = CA_KEY.read_bytes()
    result = bake("--nodes", 1, *word, "-o", "json")
    assert set(json.loads(result.out)["changed"]) == {"pki/etcd-ca.key", "manifest.json"}
    assert numbers(CA_KEY.read_bytes(), WORD.encode()) == numbers(plain)
    secret = plain.splitlines()[1]
    assert [path for path in Path("out").rglob("*") if path.is_file() and secret in path.read_bytes()] == []


def numbers(pem: bytes, word: bytes | None = None) -> object:
    key: Any = load_pem_private_key(pem, word)
    return key.private_numbers()


def test_more_nodes_need_the_passphrase_and_leave_the_key_as_it_is(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1, *word)
    before = CA_KEY.read_bytes()
    assert bake("--nodes", 3, *word).code == 0
    assert CA_KEY.read_bytes() == before


@pytest.mark.parametrize("command", [(), ("check",)])
def test_without_the_passphrase_nothing_is_baked(
    bake: Bake, word: list[str], picture: Picture, command: tuple[str, ...]
) -> None:
    bake("--nodes", 1, *word)
    before = picture(Path("out"))
    result = bake(*command, "--nodes", 1)
    assert result.code == 2
    assert f"{CA_KEY}: is encrypted, and there is no passphrase\n  hint: give --ca-passphrase-file" in result.err
    assert picture(Path("out")) == before


def test_a_wrong_passphrase_is_refused_and_not_shown(bake: Bake, word: list[str], picture: Picture) -> None:
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


def test_on_a_terminal_it_is_asked_for_where_it_is_needed(
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


def test_who_only_looks_at_the_cluster_needs_no_passphrase(bake: Bake, word: list[str]) -> None:
    bake("--nodes", 1, *word)
    assert cluster.open_cluster(Store(Path("out"), "etcd")).plan.name == "etcd"
    assert bake("seal", "--connect", "test:///none").code != 2


def test_a_key_that_the_user_encrypted_stays_as_it_is(bake: Bake, word: list[str], plan: Any) -> None:
    authority = pki.create_authority(plan(), now=datetime.now(UTC))
    theirs = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(WORD.encode()))
    CA_KEY.parent.mkdir(parents=True)
    CA_KEY.with_suffix(".pem").write_bytes(authority.cert_pem)
    CA_KEY.write_bytes(theirs)
    assert bake("--nodes", 1, *word).code == 0
    assert CA_KEY.read_bytes() == theirs


@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P256, KeyType.RSA_2048])
def test_openssl_reads_the_key_with_its_passphrase_alone(key_type: KeyType, tool: Callable[[str], str]) -> None:
    key = pki.generate_key(key_type)
    pem = pki.encrypt_key(key, b"word")
    words = [tool("openssl"), "pkey", "-pubout", "-passin"]
    read = subprocess.run([*words, "pass:word"], input=pem, capture_output=True, check=True)
    public = load_pem_private_key(pem, b"word").public_key()
    assert read.stdout == public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert subprocess.run([*words, "pass:other"], input=pem, capture_output=True, check=False).returncode != 0
    shown = subprocess.run([tool("openssl"), "asn1parse"], input=pem, capture_output=True, check=True).stdout
    assert all(name in shown for name in (b":PBES2", b":scrypt", b":4000", b":aes-256-cbc"))
    assert pki.encrypt_key(key, b"word") != pem, "salted"
