"""`--profile classic` makes the same files as the commands of the manual procedure, which is in tests/document.

The tables below list every intended difference, and docs/reference/fidelity.md gives the reasons.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID

from generator.config.load import load
from generator.operations.bake import bake
from generator.pki import BACKDATE
from generator.store.folder import Store

DOCUMENT = Path(__file__).parents[1] / "document"
ROLES = ("etcd-ca", "etcd-server", "etcd-peer", "etcd-client")
NODES = {"etcd1": "192.168.20.31", "etcd2": "192.168.20.32", "etcd3": "192.168.20.33"}

# In the procedure, the operator copies these values from the output of `etcdctl member add` to each etcd.conf.
PRINTED = {
    "etcd1": ("new", "etcd1=https://192.168.20.31:2380"),
    "etcd2": ("existing", "etcd2=https://192.168.20.32:2380,etcd1=https://192.168.20.31:2380"),
    "etcd3": (
        "existing",
        "etcd3=https://192.168.20.33:2380,etcd2=https://192.168.20.32:2380,etcd1=https://192.168.20.31:2380",
    ),
}

# ── the intended differences ────────────────────────────────────────────────────────────────

IDENTIFIERS = {
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}  # openssl before 3.2 does not add them
CONF_LEFT_OUT = {"ETCD_AUTO_TLS", "ETCD_PEER_AUTO_TLS"}
CONF_ADDED = {"ETCD_PEER_CERT_ALLOWED_CN": "etcd-peer", "ETCD_LOG_OUTPUTS": "systemd/journal"}
UNIT_CHANGED = {
    "ExecStart=/usr/bin/etcd":
        "ExecStart=/bin/sh -euc '/usr/libexec/bake/etcd-join; exec /usr/libexec/bake/etcd-start /usr/bin/etcd'"
}
UNIT_ADDED = {
    "Unit": {
        "Documentation", "ConditionPathExists", "RequiresMountsFor", "StartLimitIntervalSec",
        "After=etcd-firewall.service", "Wants=etcd-firewall.service", "After=etcd-access.service",
        "Wants=etcd-access.service", "Wants=etcd-promote.service",
        "Wants=etcd-report.service", "Wants=etcd-audit.timer", "Wants=journal-copy.service",
    },
    "Service": {
        "EnvironmentFile=/etc/etcd/bake.env",
        "RuntimeDirectory", "RuntimeDirectoryPreserve", "ExecStartPre", "ExecStartPost", "ExecStopPost", "RestartSec",
        "TimeoutStartSec",
        "StandardOutput", "StandardError",
        "CapabilityBoundingSet", "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices",
        "PrivateIPC", "PrivateTmp", "PrivateUsers", "ProtectClock", "ProtectControlGroups", "ProtectHome",
        "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
        "ProtectSystem", "ReadWritePaths", "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces",
        "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallErrorNumber",
        "SystemCallFilter", "UMask",
    },
    "Install": set(),
}  # fmt: skip


# ── the files of both ────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders made by the procedure and by bake. Both run at the same time, because RSA-4096 is slow."""
    folder = tmp_path_factory.mktemp("document") / "pki"
    shutil.copytree(DOCUMENT, folder)
    with subprocess.Popen(["sh", "./issue.sh"], cwd=folder, stderr=subprocess.DEVNULL) as document:
        spec = load(profile="classic").spec
        store = Store(tmp_path_factory.mktemp("out"), spec.name)
        baked = bake(spec, store, now=datetime.now(UTC), report=lambda _: None)
    assert document.returncode == 0
    return folder, baked.folder


@pytest.fixture(scope="module")
def document(made: tuple[Path, Path]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def classic(made: tuple[Path, Path]) -> Path:
    return made[1]


def cloud_config(classic: Path, node: str = "etcd1") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((classic / node / "user-data").read_bytes())
    return loaded


def guest_file(classic: Path, path: str, node: str = "etcd1") -> str:
    files = {file["path"]: file["content"] for file in cloud_config(classic, node)["write_files"]}
    return str(files[path])


def certificate(classic: Path, role: str, node: str = "etcd1") -> x509.Certificate:
    return x509.load_pem_x509_certificate(guest_file(classic, f"/etc/etcd/pki/{role}.pem", node).encode())


# ── certificates ─────────────────────────────────────────────────────────────────────────────


def said(cert: x509.Certificate) -> dict[str, Any]:
    """Return the content of a certificate, except serial number, dates, key and signature."""
    key = cert.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    return {
        "version": cert.version,
        "subject": name(cert.subject),
        "issuer": name(cert.issuer),
        "key": ("rsa", key.key_size, key.public_numbers().e),
        "signature": cert.signature_algorithm_oid.dotted_string,
        "validity": cert.not_valid_after_utc - cert.not_valid_before_utc,
        "serial": "long and positive" if 64 < cert.serial_number.bit_length() <= 159 else cert.serial_number,
        "extensions": {
            ext.oid.dotted_string: (ext.critical, ext.value)
            for ext in cert.extensions
            if ext.oid not in IDENTIFIERS
        },
    }


def name(subject: x509.Name) -> list[tuple[str, str, str]]:
    """Return the attributes of a name in order, with their ASN.1 string types."""
    return [(part.oid.dotted_string, str(part.value), part._type.name) for part in subject]


@pytest.mark.parametrize("role", ROLES)
def test_certificate_says_what_the_documents_certificate_says(
    document: Path, classic: Path, role: str
) -> None:
    theirs = x509.load_pem_x509_certificate((document / f"{role}.pem").read_bytes())
    assert said(certificate(classic, role)) == said(theirs)


@pytest.mark.parametrize("role", ROLES)
def test_certificate_differs_by_key_identifiers_and_a_day_of_backdating_only(
    classic: Path, role: str
) -> None:
    cert = certificate(classic, role)
    assert {ext.oid for ext in cert.extensions} & IDENTIFIERS == (
        {ExtensionOID.SUBJECT_KEY_IDENTIFIER} if role == "etcd-ca" else IDENTIFIERS
    )
    age = datetime.now(UTC) - cert.not_valid_before_utc
    assert BACKDATE.total_seconds() <= age.total_seconds() < BACKDATE.total_seconds() + 300


def test_one_set_serves_all_nodes_and_the_operator(classic: Path) -> None:
    sets = {
        tuple(
            guest_file(classic, f"/etc/etcd/pki/{role}.{kind}", node)
            for role in ROLES[1:]
            for kind in ("pem", "key")
        )
        for node in NODES
    }
    assert len(sets) == 1
    for kind in ("pem", "key"):
        operators = (classic / "pki" / f"etcd-client.{kind}").read_text()
        assert operators == guest_file(classic, f"/etc/etcd/pki/etcd-client.{kind}")


def test_keys_are_pem_files_that_openssl_accepts_with_the_documents_size(
    classic: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(guest_file(classic, "/etc/etcd/pki/etcd-server.key"))
    shown = subprocess.run(
        ["openssl", "pkey", "-in", key, "-noout", "-text"], check=True, capture_output=True, text=True
    )
    assert "Private-Key: (4096 bit" in shown.stdout


# ── etcd.conf ────────────────────────────────────────────────────────────────────────────────


def variables(text: str) -> dict[str, str]:
    """Return the variables of an env file, as systemd reads them."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] not in "#;")
    return {key: value.strip('"') for key, value in pairs}


@pytest.mark.parametrize("node", NODES)
def test_etcd_conf_has_the_documents_settings(classic: Path, node: str) -> None:
    expected = variables((DOCUMENT / "etcd.conf").read_text().replace(NODES["etcd1"], NODES[node]))
    state, members = PRINTED[node]
    expected |= {"ETCD_NAME": node, "ETCD_INITIAL_CLUSTER_STATE": state, "ETCD_INITIAL_CLUSTER": members}
    expected = {key: value for key, value in expected.items() if key not in CONF_LEFT_OUT}
    assert variables(guest_file(classic, "/etc/etcd/etcd.conf", node)) == expected | CONF_ADDED


def test_etcd_conf_has_the_documents_settings_in_its_order_and_its_headings_as_comments(
    classic: Path,
) -> None:
    def order(text: str) -> list[str]:
        names = [re.split("[=]", line.lstrip("#"))[0] for line in text.splitlines()]
        return [part for part in names if part and part not in CONF_LEFT_OUT]

    theirs = order((DOCUMENT / "etcd.conf").read_text())
    ours = order(guest_file(classic, "/etc/etcd/etcd.conf"))
    peers, *logging = CONF_ADDED
    assert ours == [*theirs, peers, "[logging]", *logging]
    assert not re.search(r"^\[", guest_file(classic, "/etc/etcd/etcd.conf"), re.MULTILINE)


# ── the unit ─────────────────────────────────────────────────────────────────────────────────


def directives(text: str) -> dict[str, list[str]]:
    """Return the `Name=value` lines by section, with a line for each value of After= and Wants=."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            section += [f"{key}={one}" for one in (value.split() if key in ("After", "Wants") else [value])]
    return found


def document_unit() -> dict[str, list[str]]:
    """Return the unit of the procedure, with the intended changes."""
    found = directives((DOCUMENT / "etcd.service").read_text())
    return {section: [UNIT_CHANGED.get(line, line) for line in lines] for section, lines in found.items()}


def test_unit_has_every_directive_of_the_document(classic: Path) -> None:
    theirs = document_unit()
    ours = directives(guest_file(classic, "/etc/systemd/system/etcd.service"))
    assert {
        section: [line for line in lines if line not in ours[section]] for section, lines in theirs.items()
    } == {section: [] for section in theirs}


def test_unit_adds_only_what_is_listed(classic: Path) -> None:
    theirs = document_unit()
    for section, lines in directives(guest_file(classic, "/etc/systemd/system/etcd.service")).items():
        added = [line for line in lines if line not in theirs[section]]
        listed = UNIT_ADDED[section]
        assert [line for line in added if line not in listed and line.partition("=")[0] not in listed] == []
        keys = {line.partition("=")[0] for line in added} | set(added)
        assert [entry for entry in listed if entry not in keys] == [], "the unit lacks these directives"


# ── the steps ────────────────────────────────────────────────────────────────────────────────

# The commands of the procedure in order, as regular expressions for the lines of user-data.
STEPS = (
    r"systemctl enable --now firewalld",
    r"useradd .*-u 2380 .*etcd",
    r"setfacl -m u:etcd:r .*etcd-server\.key .*etcd-peer\.key",
    r"chown etcd: /var/lib/etcd",
    r"systemctl daemon-reload",
    r"systemctl --no-reload enable etcd-firewall etcd report-boot$",
    r"systemctl start --no-block etcd$",
)


@pytest.mark.parametrize("node", NODES)
def test_first_boot_runs_the_documents_commands_in_its_order(classic: Path, node: str) -> None:
    commands = cloud_config(classic, node)["runcmd"]
    assert list(in_order(STEPS, commands)) == []


def in_order(patterns: tuple[str, ...], lines: list[str]) -> Iterator[str]:
    """Yield the patterns that match no line after the match of the previous pattern."""
    rest = iter(lines)
    yield from (pattern for pattern in patterns if not any(re.search(pattern, line) for line in rest))


def test_etcd_comes_from_yum_before_the_commands_run(classic: Path) -> None:
    config = cloud_config(classic)
    assert config["packages"][0] == "etcd"
    assert list(config).index("packages") < list(config).index("runcmd")


def test_firewall_commands_are_the_documents_and_permanent(classic: Path) -> None:
    script = guest_file(classic, "/usr/libexec/bake/etcd-firewall")
    values = variables(guest_file(classic, "/etc/etcd/bake.env"))
    assert 'firewall-cmd --permanent --zone="$zone"' in script
    assert "firewall-cmd --reload" in script
    assert (values["BAKE_FIREWALL"], values["BAKE_CLIENT_PORT"], values["BAKE_PEER_PORT"]) == (
        "firewalld",
        "2379",
        "2380",
    )


def test_nodes_join_as_voters_with_the_first_as_the_only_one_that_may_begin(classic: Path) -> None:
    joins = [variables(guest_file(classic, "/etc/etcd/bake.env", node)) for node in NODES]
    assert [(join["BAKE_JOIN"], join["BAKE_BOOTSTRAP"]) for join in joins] == [
        ("voter", "yes"), ("voter", "no"), ("voter", "no"),
    ]  # fmt: skip


def test_operators_environment_is_the_documents_etcdctl_options(classic: Path) -> None:
    words = ["sh", "-c", '. "$1"; env', "sh", classic / "etcdctl.env"]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    env = {name: value for name, value in variables(done.stdout).items() if name.startswith("ETCDCTL_")}
    assert env == {
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": ",".join(f"https://{address}:2379" for address in NODES.values()),
        "ETCDCTL_CACERT": str(classic / "pki/etcd-ca.pem"),
        "ETCDCTL_CERT": str(classic / "pki/etcd-client.pem"),
        "ETCDCTL_KEY": str(classic / "pki/etcd-client.key"),
    }


# ── the page that explains it ────────────────────────────────────────────────────────────────

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "fidelity.md"


def test_every_listed_difference_is_explained_on_the_page() -> None:
    text = PAGE.read_text()
    entries = [*CONF_LEFT_OUT, *CONF_ADDED, *(entry for section in UNIT_ADDED.values() for entry in section)]
    assert [entry for entry in entries if entry not in text] == []


def test_the_page_names_only_files_that_exist() -> None:
    root = PAGE.parents[2]
    paths = re.findall(r"`((?:generator|profiles|scripts|tests|docs)/[\w./-]+)`", PAGE.read_text())
    assert paths
    assert [path for path in paths if not (root / path).exists()] == []
