"""A complete bake: the files in the folder, the changes of a second bake, and the behaviour after failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator import pki
from generator.errors import BakeError
from generator.operations.baked_cluster import open_cluster
from generator.operations.seal import seal_files
from generator.pki import Credential
from generator.seed import iso
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
NODE_FILES = ("user-data", "meta-data", "network-config", "seed.iso")
PERMITS = ("etcd1/bootstrap-permit", "pki/bootstrap-permit")


RECORDS = ("manifest.json", "last-bake.json")  # they change whenever another file changes


def test_bake_writes_a_folder_per_node_and_the_operators_files(bake: Bake) -> None:
    result = bake("--nodes", 3, "-o", "json")
    assert result.code == 0
    nodes = [f"etcd{number}/{name}" for number in (1, 2, 3) for name in NODE_FILES]
    pems = [f"pki/etcd-{role}.{kind}" for role in ("ca", "peer-ca", "client") for kind in ("pem", "key")]
    records = {"cluster.yaml", "etcdctl.env", "identity", "input.yaml", *RECORDS, "seed-history.json"}
    made = {*nodes, *PERMITS, *pems, *records}
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()} == made
    assert set(json.loads(result.out)["changed"]) == made
    assert [node["address"] for node in json.loads(result.out)["nodes"]] == [
        f"192.168.20.{last}" for last in (31, 32, 33)
    ]


def test_only_the_owner_can_read_private_keys(bake: Bake) -> None:
    os.umask(0o000)
    bake("--nodes", 1)
    secrets = {path for path in FOLDER.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()}
    keys = {"etcd-ca.key", "etcd-peer-ca.key", "etcd-client.key"}
    assert {path.name for path in secrets} == {*keys, "user-data", "seed.iso"}
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert {
        path.stat().st_mode & 0o777 for path in (Path("out"), *Path("out").rglob("*")) if path.is_dir()
    } == {0o700}


def test_no_iso_has_the_ca_key(bake: Bake) -> None:
    bake("--nodes", 3)
    lines = (FOLDER / "pki/etcd-ca.key").read_bytes().splitlines()[1:3]  # the next lines have the public key
    others = [path for path in FOLDER.rglob("*") if path.is_file() and path.name != "etcd-ca.key"]
    assert [path for path in others if any(line in path.read_bytes() for line in lines)] == []


def test_a_second_bake_of_the_same_spec_changes_nothing(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    before = picture(Path("out"))
    result = bake("--nodes", 3)
    assert result.code == 0
    assert "Nothing changed" in result.err
    assert picture(Path("out")) == before


@pytest.mark.parametrize(
    "profile", [path.stem for path in Path("profiles").glob("*.yaml") if path.stem != "rhel"]
)
def test_a_second_bake_of_a_profile_changes_nothing(bake: Bake, picture: Picture, profile: str) -> None:
    words = ("--profile", profile, *(("--key-type", "rsa-2048") if profile == "classic" else ()))
    assert bake(*words).code == 0
    before = picture(Path("out"))
    assert bake(*words).code == 0
    assert picture(Path("out")) == before


def test_baking_the_resolved_spec_changes_no_seed(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3, "--subnet", "10.1.2.0/24", "--leaf-days", 90)
    before = picture(Path("out"))
    assert bake("--config", FOLDER / "cluster.yaml").code == 0
    after = picture(Path("out"))
    changed = {name for name in before | after if after.get(name) != before.get(name)}
    assert {name for name in changed if Path(name).suffix} == {"etcd/input.yaml", *(f"etcd/{name}" for name in RECORDS)}


def test_only_the_first_nodes_iso_has_the_permit_and_no_instance_id_depends_on_it(bake: Bake) -> None:
    bake("--nodes", 3)
    identity = (FOLDER / "identity").read_text().strip()
    permit = FOLDER / "etcd1/bootstrap-permit"
    assert re.fullmatch("[0-9a-f]{64}\n", permit.read_text())
    assert permit.read_bytes() == (FOLDER / "pki/bootstrap-permit").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in FOLDER.glob("*/bootstrap-permit")} == {0o600}
    isos = {node: iso.unpack((FOLDER / node / "seed.iso").read_bytes()) for node in ("etcd1", "etcd2", "etcd3")}
    assert {file.path.name: file.data for file in isos["etcd1"]}["bootstrap-permit"] == permit.read_bytes()
    assert not any(file.path.name == "bootstrap-permit" for node in ("etcd2", "etcd3") for file in isos[node])
    for node in isos:
        env = yaml.safe_load((FOLDER / node / "user-data").read_text())["write_files"]
        (text,) = (file["content"] for file in env if file["path"] == "/etc/etcd/bake.env")
        assert f'BAKE_PERMIT="etcd-{identity}"\nBAKE_PERMIT_FILE="/run/bake/bootstrap-permit"\n' in text
        digest = hashlib.sha256(permit.read_text().strip().encode()).hexdigest()
        assert f'BAKE_PERMIT_SHA256="{digest}"\n' in text
        assert permit.read_text().strip() not in (FOLDER / node / "user-data").read_text()
    before = (FOLDER / "etcd1/meta-data").read_bytes()
    (FOLDER / "sealed").touch()
    assert set(json.loads(bake("--nodes", 3, "-o", "json").out)["changed"]) == {
        "sealed", "etcd1/seed.iso", *RECORDS
    }  # fmt: skip
    assert not permit.exists()
    assert (FOLDER / "etcd1/meta-data").read_bytes() == before


def test_a_cluster_stays_sealed_until_the_file_sealed_is_deleted(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    before = picture(FOLDER)
    (FOLDER / "sealed").write_bytes(b"content of an earlier version")
    for count in (3, 3, 5, 3):
        assert bake("--nodes", count, "--yes").code == 0
        assert (FOLDER / "sealed").read_bytes() == b"content of an earlier version"
        assert not list(FOLDER.glob("etcd*/bootstrap-permit"))
    (FOLDER / "sealed").unlink()
    bake("--nodes", 3)
    records = ("seed-history.json", *RECORDS)  # they list the seeds for five nodes, too
    after = picture(FOLDER)
    assert after.keys() == before.keys()
    assert [path for path in after if after[path][2] != before[path][2] and path not in records] == []


@pytest.fixture
def sealing(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Bake:
    """Run `bake seal` without libvirt and without reachable members."""
    monkeypatch.setattr("generator.vm.connection.libvirt", None)
    monkeypatch.setattr("generator.operations.verify.answers", lambda *_: False)
    return lambda *words: bake("seal", "--yes", *words)


def test_seal_removes_only_the_permit(bake: Bake, sealing: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    before = picture(FOLDER)
    result = sealing()
    assert result.code == 0
    assert result.out == "etcd is sealed\n"
    after = picture(FOLDER)
    assert set(before) - set(after) == {"etcd1/bootstrap-permit"}
    assert set(after) - set(before) == {"sealed"}
    changed = {name for name in before if name in after and before[name][2] != after[name][2]}
    assert changed == {"etcd1/seed.iso", "manifest.json"}
    assert json.loads((FOLDER / "sealed").read_text()).keys() == {"format_version", "node", "time"}
    assert_complete(FOLDER)
    files = iso.unpack((FOLDER / "etcd1/seed.iso").read_bytes())
    assert {file.path.name: file.data for file in files} == {
        name: (FOLDER / "etcd1" / name).read_bytes() for name in NODE_FILES if name != "seed.iso"
    }
    for again in (lambda: bake("--nodes", 3), sealing):
        assert again().code == 0
        assert picture(FOLDER) == after
    assert sealing().out == "etcd is sealed already\n"


def test_seal_changes_nothing_if_another_bake_has_replaced_the_nodes(bake: Bake, picture: Picture) -> None:
    """If `seal` continued, the cluster would have the file `sealed`, but the new first node would keep its permit."""
    bake("--nodes", 3)
    store = Store(Path("out"), "etcd")
    opened = open_cluster(store)
    Path("cluster.yaml").write_text("apiVersion: bake/v1\nnodes: [{name: a}, {name: b}, {name: c}]\n")
    assert bake("--config", "cluster.yaml", "--yes").code == 0
    before = picture(Path("out"))
    with pytest.raises(BakeError, match="another command has just changed this cluster's nodes"):
        seal_files(store, opened.plan, now=datetime.now(UTC), report=print)
    assert picture(Path("out")) == before


def test_seal_warns_about_the_steps_that_it_could_not_do(bake: Bake, sealing: Bake) -> None:
    bake("--nodes", 3)
    result = sealing("-o", "json")
    data = json.loads(result.out)
    assert (data["node"], data["files"], data["vm"]) == ("etcd1", True, None)
    assert "replace the ISO in the VM's drive with" in data["warnings"][0]
    assert data["warnings"][1].startswith("no member answers; if this cluster has never started, it cannot start")
    assert result.err.count("warning: ") == 2
    quiet = sealing("-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_seal_needs_confirmation_if_the_cluster_may_never_have_been_started(
    bake: Bake, sealing: Bake, picture: Picture
) -> None:
    bake("--nodes", 3)
    before = picture(FOLDER)
    refused = bake("seal")
    assert (refused.code, refused.out, picture(FOLDER)) == (2, "", before)
    assert "this cannot be undone: no member answers" in refused.err
    assert sealing().code == 0
    assert bake("seal").out == "etcd is sealed already\n"


def test_seal_changes_nothing_if_the_given_libvirt_is_unavailable(
    bake: Bake, sealing: Bake, picture: Picture
) -> None:
    bake("--nodes", 3)
    before = picture(Path("out"))
    assert sealing("--connect", "qemu:///system").code == 1
    assert picture(Path("out")) == before


def test_seal_works_without_the_archive(bake: Bake, sealing: Bake) -> None:
    shutil.copy(Path(__file__).parents[1] / "data/etcd.tar.gz", "etcd.tar.gz")
    digest = hashlib.sha256(Path("etcd.tar.gz").read_bytes()).hexdigest()
    words = ("--profile", "rhel", "--archive", "etcd.tar.gz", "--archive-sha256", digest)
    assert bake(*words).code == 0
    archive = Path("etcd.tar.gz").read_bytes()
    Path("etcd.tar.gz").unlink()
    assert sealing().code == 0
    sealed = (FOLDER / "etcd1/seed.iso").read_bytes()
    assert [file.data for file in iso.unpack(sealed)][3:] == [archive]
    Path("etcd.tar.gz").write_bytes(archive)
    assert "Nothing changed" in bake(*words).err


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"x" * 40_000)], ids=["gone", "damaged"])
def test_seal_names_an_iso_that_it_cannot_read(
    bake: Bake, sealing: Bake, picture: Picture, spoil: Callable[[Path], object]
) -> None:
    bake("--nodes", 3)
    spoil(FOLDER / "etcd1/seed.iso")
    before = picture(Path("out"))
    result = sealing()
    assert result.code == 2
    assert "etcd1/seed.iso: " in result.err
    assert picture(Path("out")) == before
    assert bake("--nodes", 3).code == 0
    assert sealing().out == "etcd is sealed\n"


def test_seal_keeps_files_that_bake_did_not_write(bake: Bake, sealing: Bake) -> None:
    bake("--nodes", 3)
    (FOLDER / "etcd1/console.log").write_text("hello")
    (FOLDER / "notes").write_text("mine")
    assert sealing().code == 0
    assert (FOLDER / "etcd1/console.log").read_text() == "hello"
    assert (FOLDER / "notes").read_text() == "mine"


def keys_of(node: str) -> dict[str, str]:
    files = yaml.safe_load((FOLDER / node / "user-data").read_text())["write_files"]
    return {file["path"]: file["content"] for file in files if file["path"].endswith((".key", ".pem"))}


def test_adding_nodes_keeps_the_certificates_of_existing_nodes(bake: Bake) -> None:
    bake("--nodes", 3)
    before = {node: keys_of(node) for node in ("etcd1", "etcd2", "etcd3")}
    assert bake("--nodes", 5).code == 0
    assert {node: keys_of(node) for node in before} == before
    assert keys_of("etcd5")


def test_a_new_address_renews_only_the_certificates_of_that_node(bake: Bake) -> None:
    bake("--nodes", 3)
    before = {node: keys_of(node) for node in ("etcd1", "etcd2", "etcd3")}
    Path("cluster.yaml").write_text(
        "nodes: [{name: etcd1}, {name: etcd2, address: 192.168.20.99}, {name: etcd3, address: 192.168.20.33}]"
    )
    assert bake("--config", "cluster.yaml", "--yes").code == 0
    assert keys_of("etcd1") == before["etcd1"]
    assert keys_of("etcd3") == before["etcd3"]
    changed = {path for path, content in keys_of("etcd2").items() if before["etcd2"][path] != content}
    assert changed == {
        f"/etc/etcd/pki/etcd-{role}.{kind}"
        for role in ("server", "peer", "client")
        for kind in ("pem", "key")
    }


def test_bake_uses_a_ca_that_the_user_put_into_pki(bake: Bake, good: Credential, picture: Picture) -> None:
    put(good)
    assert bake("--nodes", 1).code == 0
    assert keys_of("etcd1")["/etc/etcd/pki/etcd-ca.pem"].encode() == good.cert_pem
    before = picture(Path("out"))
    assert bake("--nodes", 1).code == 0
    assert picture(Path("out")) == before


# ── problems in pki/ and in the folder ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def good(plan: Any) -> Credential:
    return pki.create_authority(plan(), now=datetime.now(UTC))


def put(credential: Credential) -> None:
    (FOLDER / "pki").mkdir(parents=True, exist_ok=True)
    (FOLDER / "pki/etcd-ca.pem").write_bytes(credential.cert_pem)
    (FOLDER / "pki/etcd-ca.key").write_bytes(credential.key_pem)


def test_bake_refuses_another_ca(bake: Bake, picture: Picture, good: Credential) -> None:
    bake("--nodes", 3)
    put(good)
    before = picture(Path("out"))
    result = bake("--nodes", 3)
    assert result.code == 2
    assert f"{FOLDER}/pki/etcd-ca.pem: did not issue this cluster's certificates" in result.err
    assert picture(Path("out")) == before


def test_bake_does_not_replace_a_missing_ca(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    shutil.rmtree(FOLDER / "pki")
    before = picture(Path("out"))
    result = bake("--nodes", 3)
    assert result.code == 2
    assert f"{FOLDER}/pki/etcd-ca.pem: is missing, but certificates that this CA issued exist" in result.err
    assert picture(Path("out")) == before


def test_check_reports_the_problems_that_bake_would_report(bake: Bake, picture: Picture, good: Credential) -> None:
    bake("--nodes", 3)
    put(good)
    before = picture(Path("out"))
    result = bake("check", "--profile", "rhel", "--archive", "/none.tar.gz", "--archive-sha256", "0" * 64)
    assert result.code == 2
    assert "did not issue this cluster's certificates" in result.err
    assert "/none.tar.gz cannot be read" in result.err
    assert picture(Path("out")) == before


def damage(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "no YAML": lambda _: b"#cloud-config\nwrite_files: [",
    "binary": lambda _: b"\xff\xfe\0",
    "a list": lambda _: b"- a",
    "nameless files": damage(b"path: /etc/etcd/pki/etcd-server.pem", b"paths: /x"),
    "files that are text": lambda _: b"write_files: none",
    "content that is a number": lambda _: b"write_files: [{path: /etc/etcd/pki/etcd-server.pem, content: 3}]",
    "a damaged key": damage(b"-----BEGIN PRIVATE", b"-----BEGIN DIRTY"),
}


@pytest.mark.parametrize("spoil", DAMAGED.values(), ids=DAMAGED)
def test_bake_names_a_damaged_seed_and_does_not_change_it(
    bake: Bake, picture: Picture, spoil: Callable[[bytes], bytes]
) -> None:
    bake("--nodes", 3)
    seed = FOLDER / "etcd2/user-data"
    seed.write_bytes(spoil(seed.read_bytes()))
    before = picture(Path("out"))
    result = bake("--nodes", 3)
    assert result.code == 2
    assert f"{FOLDER}/etcd2/user-data: " in result.err
    assert picture(Path("out")) == before


def test_bake_writes_a_missing_seed_again(bake: Bake) -> None:
    bake("--nodes", 3)
    (FOLDER / "etcd2/user-data").unlink()
    assert bake("--nodes", 3).code == 0
    assert (FOLDER / "etcd2/user-data").exists()


def test_bake_refuses_the_folder_of_another_cluster(bake: Bake, picture: Picture) -> None:
    bake("--name", "prod", "--nodes", 1)
    Path("out/prod").rename("out/etcd")
    before = picture(Path("out"))
    result = bake("--nodes", 1)
    assert result.code == 2
    assert "out/etcd: belongs to the cluster 'prod', not 'etcd'" in result.err
    assert picture(Path("out")) == before


SOURCE = {
    "plain": '. "$1"; printf %s "$ETCDCTL_CACERT"',
    "strict": 'set -eu; use() { . "$1"; }; use "$1"; printf %s "$ETCDCTL_CACERT"',
    "subshell": '(. "$1"; printf %s "$ETCDCTL_CACERT")',
    "by a relative path": 'cd "$(dirname "$1")"; . ./etcdctl.env; cd /; printf %s "$ETCDCTL_CACERT"',
}


@pytest.mark.parametrize("out", ["$(touch canary)", "a b'c\"d", "line\nbreak", "\udcff"], ids=repr)
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh", "bash --posix"])
def test_etcdctl_env_finds_its_folder_after_a_move(
    bake: Bake, tool: Callable[[str], str], out: str, shell: str
) -> None:
    program, *words = shell.split()
    assert bake("--nodes", 1, "--out", "first", "-o", "json").code == 0
    Path("first").rename(out)
    env = Path(out).absolute() / "etcd/etcdctl.env"
    for script in SOURCE.values():
        done = subprocess.run([tool(program), *words, "-c", script, "sh", env], capture_output=True, check=True)
        assert Path(os.fsdecode(done.stdout)).samefile(env.with_name("pki") / "etcd-ca.pem")
        assert done.stderr == b""
    assert not Path("canary").exists()


def test_no_file_has_the_path_of_its_folder(bake: Bake, picture: Picture, tmp_path: Path) -> None:
    bake("--nodes", 2, "--out", "first")
    files = [path for path in Path("first").rglob("*") if path.is_file()]
    assert [path for path in files if str(tmp_path).encode() in path.read_bytes()] == []
    before = picture(Path("first"))
    Path("first").rename("second")
    assert "Nothing changed" in bake("--nodes", 2, "--out", "second").err
    assert picture(Path("second")) == before


def test_etcdctl_env_reports_that_it_cannot_find_its_folder(bake: Bake, tool: Callable[[str], str]) -> None:
    bake("--nodes", 1)
    (FOLDER / "etcdctl.env").rename("elsewhere.env")
    script = '. "$1" || echo "code $?"; echo "<${ETCDCTL_CACERT-none}>"'
    done = subprocess.run(
        [tool("dash"), "-c", script, "sh", Path("elsewhere.env").absolute()],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "code 1\n<none>\n"
    assert "keep this file, with its name, in the cluster's folder" in done.stderr


# ── failures of the machine, with real processes ────────────────────────────────────────────────────────────

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or to change the user")
BAKE = [sys.executable, "-m", "generator.cli"]


def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BAKE, *map(str, words)], capture_output=True, text=True, check=False, **more)


def in_a_mount(script: str, folder: Path) -> list[str]:
    """Run a shell script in a new mount namespace and return its output. `"$@"` in the script runs bake."""
    words = ["unshare", "--mount", "sh", "-euc", script, "sh", *BAKE]
    folder.mkdir()
    done = subprocess.run(words, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).splitlines()


@root_only
def test_bake_refuses_a_read_only_file_system(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o ro none out; "$@" --nodes 1 && exit 9; echo "code $?"; find out -mindepth 1'
    lines = in_a_mount(script, tmp_path / "out")
    assert lines[0] == "code 1"  # as `bake init` and `bake backup`: the input is not wrong
    assert lines[1].endswith("/out: cannot be written: Read-only file system")
    assert len(lines) == 3


@root_only
def test_the_old_folder_stays_if_the_disk_is_full(tmp_path: Path) -> None:
    script = """
        sum() { find out -type f -exec sha256sum {} + | sort; }
        mount -t tmpfs -o size=2m none out; "$@" -q --nodes 1
        before=$(sum); head -c 1m /dev/zero >out/etcd/other || :
        "$@" --nodes 7 --leaf-days 9 && exit 9; echo "code $?"
        rm out/etcd/other; [ "$before" = "$(sum)" ] && echo same; find out -maxdepth 1 -mindepth 1"""
    lines = in_a_mount(script, tmp_path / "out")
    assert lines[:3] == ["code 1", "same", "out/etcd"]
    assert "/out: the disk is full; nothing has changed" in lines[-2]


@root_only
@pytest.mark.parametrize("size", [16, 48], ids=["no room for the schema", "no room for the cluster file"])
def test_init_writes_no_cluster_file_to_a_full_disk(tmp_path: Path, size: int) -> None:
    script = f"""
        mount -t tmpfs -o size={size}k none out; "$@" init --yes out/c.yaml && exit 9; echo "code $?"; ls out
        mount -o remount,size=1m none out; "$@" init --yes out/c.yaml; "$@" check --config out/c.yaml -q"""
    lines = in_a_mount(script, tmp_path / "out")
    assert lines[: lines.index("out/c.yaml")] == ["code 1", *(["bake.schema.json"] if size == 48 else [])]
    assert any(line.endswith(": cannot be written: No space left on device") for line in lines)
    assert "  hint: free some space, or give another path: bake init FILE" in lines


@root_only
@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [(0o555, 1, "out: cannot be written: Permission denied"), (0o000, 2, "is not readable")],
    ids=["read-only", "unreadable"],
)
def test_bake_refuses_a_folder_without_permission(tmp_path: Path, mode: int, code: int, text: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(mode)
    script = (
        "import os, sys; from generator import cli, pki; from generator.config import load\n"
        "from generator.operations import bake; from generator.store import folder\n"
    )
    script += "os.setuid(65534); sys.argv[1:] = ['--nodes', '1', '--out', sys.argv[1]]; cli.main()"
    for parent in (tmp_path, *tmp_path.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script, out], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []


def test_an_interrupted_bake_leaves_no_files(tmp_path: Path) -> None:
    words = [*BAKE, "--nodes", "7", "--key-type", "rsa-3072", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/.etcd.new-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    assert not (tmp_path / "out").exists()


def assert_complete(folder: Path) -> int:
    """Check that one run wrote all files of the folder. Return the number of nodes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "manifest.json"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    return sum(name.endswith("seed.iso") for name in found)


def test_concurrent_bakes_do_not_mix_their_files(tmp_path: Path) -> None:
    counts = [1, 2, 3, 5]
    words = [[*BAKE, "-q", "--yes", "--nodes", str(count), "--out", str(tmp_path / "out")] for count in counts]
    processes = [subprocess.Popen(each) for each in words]
    assert [process.wait(300) for process in processes] == [0, 0, 0, 0]
    assert assert_complete(tmp_path / "out/etcd") in counts
    assert run("--nodes", "3", "--yes", "--out", tmp_path / "out").returncode == 0
