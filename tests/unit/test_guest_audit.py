"""etcd-audit with a fake /proc and fake files of a node: its report has only facts and no secrets."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from generator import pki
from generator.etcd.node_report import parse_report
from generator.plan import ClusterPlan
from generator.seed.guest_files import Trust, guest_files
from tests.assembly.miniature import GUEST


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    loader = SourceFileLoader("etcd_audit", str(GUEST / "etcd-audit"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def node(tmp_path: Path, plan: Callable[..., ClusterPlan]) -> Path:
    """A folder with a node's files, and with an etcd process in a fake /proc."""
    cluster, now = plan(nodes=1), datetime.now(UTC)
    authority = pki.create_authority(cluster, now=now)
    issued = next(pki.issue_nodes(cluster, authority, now=now))
    trust = Trust(identity="0" * 32, ca_pem=authority.cert_pem)
    for file in guest_files(cluster, cluster.nodes[0], trust, issued):
        target = tmp_path / file.path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(file.mode)
    (tmp_path / "var/lib/etcd/etcd").mkdir(parents=True, mode=0o700)
    lines = (tmp_path / "etc/etcd/etcd.conf").read_text().splitlines()
    settings = [line.replace('"', "") for line in lines if line.startswith("ETCD_")]
    process(tmp_path, 7, "etcd", "/system.slice/etcd.service", ["HOME=/", "ETCD_AUTH_TOKEN=hush", *settings])
    process(tmp_path, 5, "etcd-join", "/system.slice/etcd.service", [])
    process(tmp_path, 6, "etcd", "/system.slice/other.service", [])
    (tmp_path / "proc/self").mkdir()
    return tmp_path


def process(root: Path, pid: int, comm: str, unit: str, environ: list[str], *arguments: str) -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup").write_text(f"0::{unit}\n")
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "environ").write_text("".join(f"{pair}\0" for pair in environ))
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in ("/usr/bin/etcd", *arguments)))


def test_bake_audit_can_read_the_report(hook: ModuleType, node: Path) -> None:
    said = parse_report(json.dumps(hook.report("etcd1", node / "proc", node)).encode(), "etcd1")
    assert said.options["client-cert-auth"] == "true"
    assert said.options["key-file"] == "/etc/etcd/pki/etcd-server.key"
    modes = {path: oct(one.mode) for path, one in said.files.items()}
    assert modes["/etc/etcd/pki/etcd-server.key"] == modes["/etc/etcd/pki/etcd-client.key"] == "0o600"
    assert modes["/var/lib/etcd/etcd"] == "0o700"
    server = ssl.PEM_cert_to_DER_cert((node / "etc/etcd/pki/etcd-server.pem").read_text())
    assert said.certificates["cert-file"] == (hashlib.sha256(server).hexdigest(),)


def test_the_report_has_the_id_of_the_seed_that_etcd_runs(hook: ModuleType, node: Path) -> None:
    """While etcd must restart to load a new seed, the node reports no id."""
    assert "seed" not in hook.report("etcd1", node / "proc", node), "the node was not configured"
    (node / "var/lib/bake").mkdir()
    (node / "var/lib/bake/configured").write_text("etcd1-0123456789abcdef\n")
    said = parse_report(json.dumps(hook.report("etcd1", node / "proc", node)).encode(), "etcd1")
    assert said.seed == "etcd1-0123456789abcdef"
    (node / "run/bake").mkdir(parents=True)
    (node / "run/bake/restart-etcd").touch()
    assert hook.report("etcd1", node / "proc", node)["seed"] == ""


def test_the_report_contains_no_secret(hook: ModuleType, node: Path) -> None:
    text = json.dumps(hook.report("etcd1", node / "proc", node))
    keys = list((node / "etc/etcd/pki").glob("*.key"))
    assert len(keys) == 3
    for key in keys:
        for line in key.read_text().splitlines():
            assert line not in text
    assert "hush" not in text


def test_a_flag_overrides_a_variable(hook: ModuleType) -> None:
    environ = b"ETCD_CLIENT_CERT_AUTH=true\0ETCD_AUTO_TLS=false\0ETCD_DATA_DIR=/a\0"
    arguments = b"etcd\0--client-cert-auth=false\0-auto-tls\0--data-dir\0/b\0--peer-auto-tls\0"
    assert hook.options(environ, arguments) == {
        "client-cert-auth": "false", "auto-tls": "true", "data-dir": "/b", "peer-auto-tls": "true",
    }  # fmt: skip


def test_options_that_open_a_port_or_disable_a_check_are_reported(hook: ModuleType) -> None:
    environ = b"ETCD_ENABLE_PPROF=true\0ETCD_LOG_LEVEL=debug\0ETCD_LISTEN_METRICS_URLS=http://0.0.0.0:1\0"
    environ += b"ETCD_PEER_SKIP_CLIENT_SAN_VERIFICATION=true\0"
    environ += b"ETCD_EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION=true\0"
    assert set(hook.options(environ, b"etcd\0")) == {
        "enable-pprof", "log-level", "listen-metrics-urls",
        "peer-skip-client-san-verification", "experimental-peer-skip-client-san-verification",
    }  # fmt: skip


@pytest.mark.parametrize(
    "stated",
    ["ETCD_KEY_FILE=/root/secret.key", "ETCD_CERT_FILE=/etc/etcd/pki/../../../root/secret.key", "ETCD_DATA_DIR=/root"],
)
def test_etcds_account_cannot_make_root_examine_other_files(hook: ModuleType, node: Path, stated: str) -> None:
    """etcd's account can run a process with any options, such as the path of a certificate."""
    (node / "root").mkdir()
    (node / "root/secret.key").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    process(node, 7, "etcd", "/system.slice/etcd.service", [stated])
    said = hook.report("etcd1", node / "proc", node, data_dir="/var/lib/etcd/etcd")
    assert not any("root" in path for path in said["files"])
    assert said["certificates"] == {}
    assert stated.partition("=")[2] in said["process"]["options"].values(), "bake audit reports the wrong option"


@pytest.mark.parametrize("name", ["deep", "deep/etcd"])
def test_links_in_the_data_folder_are_not_followed(hook: ModuleType, node: Path, name: str) -> None:
    """etcd's account can create links below /var/lib/etcd."""
    (node / "root/etcd").mkdir(parents=True)
    data_dir = "/var/lib/etcd/deep/etcd"
    (node / "var/lib/etcd/deep").mkdir()
    place = node / "var/lib/etcd" / name
    if place.exists():
        place.rmdir()
    place.symlink_to(node / "root" if name == "deep" else node / "root/etcd")
    process(node, 7, "etcd", "/system.slice/etcd.service", [f"ETCD_DATA_DIR={data_dir}"])
    assert data_dir not in hook.report("etcd1", node / "proc", node, data_dir=data_dir)["files"]


def test_a_users_unit_named_etcd_is_not_etcd(hook: ModuleType, node: Path) -> None:
    process(node, 4, "etcd", "/user.slice/user-1000.slice/user@1000.service/app.slice/etcd.service", ["ETCD_NAME=x"])
    assert hook.etcd_process(node / "proc") == node / "proc/7"


def test_without_a_running_etcd_the_report_still_has_the_files(hook: ModuleType, node: Path) -> None:
    (node / "proc/7/comm").unlink()
    said = hook.report("etcd1", node / "proc", node)
    assert "process" not in said
    assert said["files"]["/etc/etcd/etcd.conf"]["mode"] == "0600"


def test_missing_files_are_not_in_the_report(hook: ModuleType, node: Path) -> None:
    (node / "etc/etcd/pki/etcd-client.key").unlink()
    (node / "etc/etcd/pki/etcd-peer.pem").unlink()
    said = hook.report("etcd1", node / "proc", node)
    assert "/etc/etcd/pki/etcd-client.key" not in said["files"]
    assert "peer-cert-file" not in said["certificates"]


def test_a_file_of_several_certificates_has_several_digests(hook: ModuleType) -> None:
    one = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    two = one.replace(b"AAAA", b"AAAB\nAAAC")
    digests = list(hook.digests(b"# a comment\n" + one + two))
    assert digests == [hashlib.sha256(data).hexdigest() for data in (b"\0\0\0", b"\0\0\1\0\0\2")]


def test_the_report_is_written_to_the_runtime_folder(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("BAKE_NAME", "etcd9")
    monkeypatch.setenv("BAKE_DATA_DIR", "/var/lib/etcd/etcd")
    assert hook.main() == 0
    assert json.loads((tmp_path / "report.json").read_text())["node"] == "etcd9"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
