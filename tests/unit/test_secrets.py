"""Private keys are only in their files, and not in output, logs, `repr` or libvirt's XML."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from generator.config.load import load
from generator.config.spec import ClusterSpec
from generator.errors import BakeError
from generator.operations import bake as work
from generator.operations import cluster_files
from generator.pki import Role
from generator.plan import ClusterPlan, plan_cluster
from generator.seed.guest_files import Trust
from generator.store.existing_keys import load_keyring
from generator.store.folder import Store

Bake = Callable[..., Any]
FOLDER = Path("out/etcd")


def key_texts(pem: bytes) -> set[bytes]:
    """Yield texts that would reveal a private key: its lines and its number."""
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value
    lines = pem.splitlines()[1:3]  # the other lines are the public key
    return {*lines, lines[0][40:60], secret.to_bytes(32, "big"), b"%x" % secret, b"%d" % secret}


def keys_in(folder: Path) -> list[bytes]:
    """Yield every private key of a cluster: the operator's keys and the keys on the seeds."""
    found = [path.read_bytes() for path in folder.glob("pki/*.key")]
    for user_data in folder.glob("*/user-data"):
        files = yaml.safe_load(user_data.read_text())["write_files"]
        found += [file["content"].encode() for file in files if file["path"].endswith(".key")]
    return found


def revealed_keys(folder: Path, *texts: str | bytes) -> set[bytes]:
    secrets = set[bytes]().union(*map(key_texts, keys_in(folder)))
    assert len(secrets) >= 6 * 5
    whole = b"\n".join(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text for text in texts)
    return {secret for secret in secrets if secret in whole}


def test_the_search_finds_keys(bake: Bake) -> None:
    bake("--nodes", 1)
    assert revealed_keys(FOLDER, (FOLDER / "etcd1/seed.iso").read_bytes())
    assert revealed_keys(FOLDER, (FOLDER / "pki/etcd-ca.key").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("--nodes", 2), ("--nodes", 2, "-o", "json"), ("--nodes", 2, "-v"), ("check", "--nodes", 2),
        ("check", "--nodes", 2, "-o", "json", "-v"), ("--nodes", 9, "-v"), ("--nodes", 3, "-o", "json"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)  # fmt: skip
def test_no_output_and_no_log_has_a_key(bake: Bake, caplog: Any, words: tuple[object, ...]) -> None:
    caplog.set_level(logging.DEBUG)
    bake("--nodes", 2)
    result = bake(*words)
    assert len(result.out + result.err) > 20
    assert revealed_keys(FOLDER, result.out, result.err, caplog.text) == set()


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "not a key": lambda pem: pem.replace(b"-----BEGIN PRIVATE", b"-----BEGIN DIRTY"),
    "cut off": lambda pem: pem[: len(pem) // 2],
    "one character": lambda pem: pem.replace(pem[60:61], b"!", 1),
    "not text": lambda pem: b"\xff" + pem,
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize("name", ["pki/etcd-ca.key", "pki/etcd-client.key", "etcd1/user-data"])
def test_no_message_about_a_damaged_key_has_the_key(bake: Bake, name: str, spoil: Callable[[bytes], bytes]) -> None:
    bake("--nodes", 1)
    kept = {path: path.read_bytes() for path in (FOLDER / "pki").glob("*.key")}
    user_data = (FOLDER / "etcd1/user-data").read_bytes()
    path = FOLDER / name
    path.write_bytes(spoil(path.read_bytes()))
    spec, store = ClusterSpec(nodes=1), Store(Path("out"), "etcd")
    shown = list(tracebacks(lambda: work.check(spec, store, now=datetime.now(UTC))))
    result = bake("--nodes", 1, "-v")
    assert shown or result.code == 0  # some changed characters of user-data have no effect
    for key, pem in kept.items():
        key.write_bytes(pem)
    (FOLDER / "etcd1/user-data").write_bytes(user_data)
    assert revealed_keys(FOLDER, result.out, result.err, *shown) == set()


def tracebacks(call: Callable[[], object]) -> Iterator[str]:
    try:
        call()
    except BakeError as error:
        yield from traceback.format_exception(error)


def test_no_public_file_has_a_key(bake: Bake) -> None:
    bake("--nodes", 2)
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert {path.name for path in files} >= {"manifest.json", "cluster.yaml", "etcdctl.env", "meta-data", "etcd-ca.pem"}
    assert revealed_keys(FOLDER, *(path.read_bytes() for path in files)) == set()


def test_no_repr_has_a_key(tmp_path: Path, plan: Callable[..., ClusterPlan], now: datetime) -> None:
    store = Store(tmp_path / "out", "etcd")
    spec = load(flags={"--nodes": (("nodes",), 2)}).spec
    baked = work.bake(spec, store, now=now, report=pytest.fail)
    found = load_keyring(store, baked.plan, now=now, passphrase=None)
    assert found.identity is not None
    assert found.client is not None
    trust = Trust(identity=found.identity, ca_pem=found.authorities.trusted(Role.CA) or b"")
    clients = {"etcd-client": found.client}
    files = [*found.authorities.files(), *cluster_files.operator_files(baked.plan, trust, clients)]
    first = baked.plan.nodes[0], trust, found.nodes[0]
    made = [*files, *cluster_files.node_files(baked.plan, *first, (), sealed=False)]
    shown = [repr(each) for each in (baked, found, found.nodes, store, made, store.manifest())]
    assert len(found.nodes) == 2
    assert revealed_keys(store.folder, *shown, *map(str, made)) == set()


def test_no_definition_in_libvirt_has_a_key(bake: Bake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Boot the cluster with libvirt's test driver, which cannot fill volumes."""
    pytest.importorskip("libvirt")
    from generator import vm
    from generator.image.base import BootImage

    bake("--nodes", 2)
    spec = load(config=FOLDER / "cluster.yaml").spec
    plan = plan_cluster(spec)
    uploaded: list[bytes] = []
    monkeypatch.setattr(
        "generator.vm.storage_pool._send", lambda _volume, source, *_, **__: uploaded.append(source.read())
    )
    (tmp_path / "disk").write_bytes(b"disk")
    image = BootImage(disk=tmp_path / "disk", format="raw", virtual_size=4, digest="aa")
    said: list[str] = []
    driver = vm.connect("test:///default")
    try:
        vm.LibvirtEngine(
            connection=driver, plan=plan, cluster_id="id1", seeds=FOLDER, load_image=lambda: image, accel="tcg",
            report=said.append,
        ).create("etcd1", "etcd2")  # fmt: skip
        xml = list(_definitions(driver))
    finally:
        vm.LibvirtHosts(connection=driver).destroy(plan.name, cluster_id="id1")
    assert revealed_keys(FOLDER, *uploaded)  # volumes contain keys
    assert sum("seed" in text for text in xml) >= 2
    assert revealed_keys(FOLDER, *xml, *said) == set()


def _definitions(driver: Any) -> Iterable[str]:
    for domain in driver.listAllDomains():
        yield domain.XMLDesc()
        yield domain.XMLDesc(2)  # 2: the definition of an inactive domain
        yield domain.name()
    for pool in driver.listAllStoragePools():
        yield pool.XMLDesc()
        yield from (volume.XMLDesc() for volume in pool.listAllVolumes())
    yield from (network.XMLDesc() for network in driver.listAllNetworks())


@pytest.mark.parametrize("again", ["correct horse battery", "wrong staple"])
@pytest.mark.usefixtures("quick_scrypt")
def test_a_passphrase_is_never_printed_or_stored(bake: Bake, caplog: Any, again: str) -> None:
    caplog.set_level(logging.DEBUG)
    words = ("--nodes", 1, "--ca-passphrase-file", "passphrase", "-v")
    Path("passphrase").write_text("correct horse battery\n")
    first = bake(*words)
    Path("passphrase").write_text(f"{again}\n")
    second = bake(*words)
    assert (first.code, second.code) == (0, 0 if again.startswith("correct") else 2)
    told = "".join((first.out, first.err, second.out, second.err, caplog.text)).encode()
    whole = told + b"".join(path.read_bytes() for path in FOLDER.rglob("*") if path.is_file())
    assert [word for word in (b"correct horse", b"wrong staple") if word in whole] == []
