"""`bake client`: certificates and configuration of applications."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from generator import pki
from generator.clients.access import check_access
from generator.clients.application import Kind
from generator.clients.kubernetes import compacts
from generator.config.auth import Access, AuthSpec, PermissionSpec, RoleSpec, UserSpec
from generator.operations import certs, clients
from generator.operations.baked_cluster import open_cluster
from generator.pki.ca_phases import Phase
from generator.pki.key_pair import key_type_of
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
KINDS = [str(kind) for kind in Kind]
CONFIG = {
    "kubernetes": ["kube-apiserver.flags", "kubeadm.yaml"], "patroni": ["patroni.yml"],
    "prometheus": ["prometheus.yml", "rules.yml", "dashboard.json"], "generic": ["etcdctl.env", "example.py"],
}  # fmt: skip
KUBERNETES = "{name: kubernetes, permissions: [{prefix: /registry/}, {key: compact_rev_key}]}"
PATRONI = "{name: patroni, permissions: [{prefix: /service/}]}"
AUTH = f"""
nodes: 3
auth:
  enabled: true
  users: [{{name: kube-apiserver, roles: [kubernetes]}}, {{name: app1, roles: [patroni]}}, {{name: idle}}]
  roles: [{KUBERNETES}, {PATRONI}]
"""


def home(name: str) -> Path:
    return FOLDER / "clients" / name


def certificate(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((home(name) / "client.pem").read_bytes())


def subject(name: str, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(one.value) for one in certificate(name).subject.get_attributes_for_oid(oid)]


def store() -> Store:
    return Store(Path("out"), "etcd")


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_gets_a_certificate_and_its_configuration(bake: Bake, picture: Picture, kind: str) -> None:
    bake("--nodes", 3)
    result = bake("client", "add", "one", "--for", kind, "-o", "json")
    assert result.code == 0, result.err
    names = {"ca.pem", "client.pem", "client.key", "client.json", *CONFIG[kind]}
    assert {path.name for path in home("one").iterdir()} == names
    modes = {path.name: path.stat().st_mode & 0o777 for path in home("one").iterdir()}
    assert modes == {**dict.fromkeys(names, 0o644), "client.key": 0o600}
    assert (home("one").stat().st_mode & 0o777, home("one").parent.stat().st_mode & 0o777) == (0o700, 0o700)
    issuer = x509.load_pem_x509_certificate((FOLDER / "pki/etcd-ca.pem").read_bytes())
    found = certificate("one")
    assert pki.is_issued_by(found, issuer)
    usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    data = json.loads(result.out)
    assert (data["name"], data["for"], data["folder"]) == ("one", kind, str(home("one").absolute()))
    assert {Path(path).name for path in data["changed"]} == names
    assert {file["path"] for file in data["files"] if file["secret"]} == {"client.key"}
    assert set(data["configuration"]) <= set(CONFIG[kind])
    for name, text in data["configuration"].items():
        assert text == (home("one") / name).read_text()
    before = picture(Path("out"))
    again = bake("client", "add", "one")
    assert (again.code, "one: unchanged" in again.err, picture(Path("out"))) == (0, True, before)


@pytest.mark.parametrize(
    ("kind", "names", "units"),
    [("kubernetes", ["one"], ["etcd-client"]), ("prometheus", ["one"], ["etcd-client"]), ("patroni", [], ["one"])],
)
def test_only_patronis_certificate_has_no_common_name(
    bake: Bake, kind: str, names: list[str], units: list[str]
) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", kind)
    found = subject("one", NameOID.COMMON_NAME), subject("one", NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert found == (names, units)


def test_the_printed_configuration_has_the_nodes_and_the_files(bake: Bake) -> None:
    bake("--nodes", 3)
    urls = [f"https://192.168.20.3{number}:2379" for number in (1, 2, 3)]
    out = bake("client", "add", "k", "--for", "kubernetes").out
    assert f"--etcd-servers={','.join(urls)}\n" in out
    kubeadm = yaml.safe_load((home("k") / "kubeadm.yaml").read_text())
    assert kubeadm["etcd"]["external"] == {
        "endpoints": urls, "caFile": "/etc/kubernetes/pki/etcd/ca.pem",
        "certFile": "/etc/kubernetes/pki/etcd/client.pem", "keyFile": "/etc/kubernetes/pki/etcd/client.key",
    }  # fmt: skip
    section = yaml.safe_load(bake("client", "add", "p", "--for", "patroni", "--dir", "/srv/tls").out)["etcd3"]
    assert section == {
        "hosts": [url.removeprefix("https://") for url in urls], "protocol": "https", "cacert": "/srv/tls/ca.pem",
        "cert": "/srv/tls/client.pem", "key": "/srv/tls/client.key",
    }  # fmt: skip
    assert yaml.safe_load(bake("client", "add", "p").out)["etcd3"] == section, "--dir is kept"
    code = home("g").absolute()
    bake("client", "add", "g", "--for", "generic")
    assert f"export ETCDCTL_KEY={code}/client.key\n" in (home("g") / "etcdctl.env").read_text()
    compile((home("g") / "example.py").read_text(), "example.py", "exec")


def test_a_firewall_that_limits_clients_is_named(bake: Bake) -> None:
    Path("cidrs.yaml").write_text("nodes: 1\nfirewall: {clientCidrs: [subnet, 10.0.0.0/8]}\n")
    bake("--config", "cidrs.yaml")
    result = bake("client", "add", "one", "--for", "generic")
    assert "- the nodes accept clients only from 192.168.20.0/24, 10.0.0.0/8; if the application is else" in result.err


def test_a_bake_keeps_the_clients(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    bake("client", "add", "one", "--for", "generic")
    before = picture(home("one"))
    assert "Nothing changed" in bake().err
    assert bake("--nodes", 4).code == 0
    assert picture(home("one")) == before
    listed = json.loads(bake("client", "-o", "json").out)["clients"]
    assert [(one["name"], one["for"], one["outdated"]) for one in listed] == [("one", "generic", "other configuration")]
    result = bake("client", "add", "one")
    assert "~ clients/one/: etcdctl.env" in result.err
    assert "192.168.20.34" in (home("one") / "etcdctl.env").read_text()
    assert bake("client", "list").out.split() == ["NAME", "FOR", "DIR", "DAYS", "LEFT", "UPDATE", "one", "generic",
                                                  str(home("one").absolute()), "363"]  # fmt: skip


def test_another_kind_replaces_the_configuration_and_keeps_the_key(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    key = (home("one") / "client.key").read_bytes()
    assert bake("client", "add", "one", "--for", "prometheus", "--yes").code == 0
    assert not (home("one") / "etcdctl.env").exists()
    assert "/etc/prometheus/etcd/ca.pem" in (home("one") / "prometheus.yml").read_text()
    assert (home("one") / "client.key").read_bytes() == key


@pytest.mark.parametrize(
    ("old", "new", "loss"),
    [
        ("generic", "prometheus", "one: its configuration for generic is deleted"),
        ("patroni", "generic", "one: its configuration for patroni is deleted, and its key is replaced"),
        ("kubernetes", "patroni", "one: its configuration for kubernetes is deleted, and its key is replaced"),
    ],
)
def test_another_kind_needs_confirmation(bake: Bake, picture: Picture, old: str, new: str, loss: str) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", old)
    before, key = picture(Path("out")), (home("one") / "client.key").read_bytes()
    refused = bake("client", "add", "one", "--for", new)
    assert (refused.code, refused.err.splitlines()[0]) == (2, f"error: this cannot be undone: {loss}")
    assert picture(Path("out")) == before
    assert bake("client", "add", "one", "--for", old).code == 0, "the same kind again deletes nothing"
    assert bake("client", "add", "one", "--for", new, "--yes").code == 0
    assert ((home("one") / "client.key").read_bytes() != key) is ("replaced" in loss)


def test_a_wrong_option_is_refused_before_another_kind_is_confirmed(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "patroni")
    refused = bake("client", "add", "one", "--for", "generic", "--dir", "tls")
    assert (refused.code, "--dir: " in refused.err, "undone" in refused.err) == (2, True, False)


def test_the_key_type_follows_the_cluster(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    bake("--key-type", "rsa-2048")
    bake("client", "add", "one")
    key = pki.parse_key((home("one") / "client.key").read_bytes(), where="")
    assert key_type_of(key) == "rsa-2048"


def test_renew_replaces_the_key_and_the_certificate(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    before = (home("one") / "client.key").read_bytes(), certificate("one")
    result = bake("client", "add", "one", "--renew")
    assert "~ clients/one/: client.pem, client.key" in result.err
    assert (home("one") / "client.key").read_bytes() != before[0]
    assert certificate("one") != before[1]


def test_a_certificate_that_expires_soon_is_renewed(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    before, late = certificate("one"), datetime.now(UTC) + timedelta(days=340)
    words: dict[str, Any] = {"target": None, "renew": False, "passphrase": None, "report": print}
    clients.add(store(), "one", None, now=datetime.now(UTC) + timedelta(days=300), **words)
    assert certificate("one") == before
    clients.add(store(), "one", None, now=late, **words)
    assert certificate("one") != before
    (status,) = clients.statuses(open_cluster(store()), now=late + timedelta(days=800))
    assert status.outdated == "expired"


def test_the_certificates_are_listed_and_expiring_ones_name_the_command(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    opened, now = open_cluster(store()), datetime.now(UTC)
    found = {entry.owner: entry for entry in certs.entries(opened, now=now)}
    assert found["client one"].days_left == 363
    assert certs.renewal(opened, [found["client one"]]) == "bake client add one"
    both = certs.renewal(opened, [found["client one"], found["etcd1"]])
    assert both == "bake certs rotate etcd1; bake client add one"


def test_a_client_follows_a_new_ca(bake: Bake) -> None:
    from generator.operations.bake import bake as run

    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    first, now = certificate("one"), datetime.now(UTC)

    def outdated() -> str:
        return next(clients.statuses(open_cluster(store()), now=now)).outdated

    for phase, was, cas in (
        (Phase.TRUST, "other configuration", 2), (Phase.REISSUE, "issued by another CA", 2),
        (Phase.DROP, "other configuration", 1),
    ):  # fmt: skip
        run(open_cluster(store()).plan.spec, store(), now=now, report=print, change=lambda found: found.advanced())
        assert outdated() == was, phase
        bake("client", "add", "one")
        assert outdated() == ""
        assert len(x509.load_pem_x509_certificates((home("one") / "ca.pem").read_bytes())) == cas
    assert certificate("one") != first


def test_remove_needs_confirmation_and_deletes_only_the_clients_files(bake: Bake) -> None:
    bake("--nodes", 1)
    for name in ("one", "two"):
        bake("client", "add", name, "--for", "generic")
    (home("one") / "mine").write_text("")
    refused = bake("client", "remove", "one")
    assert (refused.code, "one: its key is deleted" in refused.err) == (2, True)
    result = bake("client", "remove", "one", "--yes", "-o", "json")
    assert (result.code, len(json.loads(result.out)["removed"])) == (0, 6)
    assert [path.name for path in home("one").iterdir()] == ["mine"]
    assert (home("two") / "client.key").exists()
    assert bake("client", "remove", "one", "--yes").code == 2


def test_a_backup_has_the_clients(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    Path("word").write_text("correct horse\n")
    Path("word").chmod(0o600)
    assert bake("backup", "saved.age", "--passphrase-file", "word").code == 0
    key = (home("one") / "client.key").read_bytes()
    assert bake("recover", "saved.age", "--passphrase-file", "word", "--out", "new").code == 0
    assert (Path("new/etcd/clients/one/client.key")).read_bytes() == key


# --- bad input ------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "no kind": (("one",), ["--for: is required for a new client"]),
    "a path": (("../one", "--for", "generic"), ["NAME: '../one' is not 1 to 64 letters"]),
    "a dot": ((".", "--for", "generic"), ["NAME: '.' is not 1 to 64 letters"]),
    "the node": (("etcd1", "--for", "generic"), ["NAME: 'etcd1' is the name of a node"]),
    "the operator": (("etcd-client", "--for", "generic"), ["NAME: 'etcd-client' is reserved"]),
    "root": (("root", "--for", "prometheus"), ["NAME: 'root' is reserved"]),
    "the folder": (("one", "--for", "patroni", "--dir", "tls"), ["--dir: 'tls' is not an absolute path"]),
    "two": (("root", "--dir", "x"), ["NAME: 'root' is reserved", "--for: is required", "--dir: 'x' is not"]),
    "another kind": (("one", "--for", "etcd"), ["'etcd' is not one of 'kubernetes', 'patroni'"]),
}


@pytest.mark.parametrize(("words", "rules"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_nothing_is_written(
    bake: Bake, picture: Picture, words: tuple[str, ...], rules: list[str]
) -> None:
    bake("--nodes", 1)
    before = picture(Path("out"))
    result = bake("client", "add", *words)
    assert result.code == 2
    for rule in rules:
        assert rule in result.err
    assert picture(Path("out")) == before


def test_without_a_cluster_there_is_no_client(bake: Bake) -> None:
    for words in (("add", "one", "--for", "generic"), ("list",), ("remove", "one")):
        result = bake("client", *words)
        assert (result.code, "there is no cluster 'etcd'" in result.err) == (2, True)


def test_a_changed_record_is_refused(bake: Bake) -> None:
    bake("--nodes", 1)
    bake("client", "add", "one", "--for", "generic")
    (home("one") / "client.json").write_text('{"for": "mine"}')
    for words in (("client",), ("client", "add", "one")):
        result = bake(*words)
        assert (result.code, "client.json: has content that bake did not write" in result.err) == (2, True)


def test_an_encrypted_ca_key_needs_its_passphrase(bake: Bake, quick_scrypt: None) -> None:
    Path("word").write_text("correct horse\n")
    Path("word").chmod(0o600)
    bake("--nodes", 1, "--ca-passphrase-file", "word")
    refused = bake("client", "add", "one", "--for", "generic")
    assert (refused.code, "no passphrase was given" in refused.err) == (2, True)
    assert bake("client", "add", "one", "--for", "generic", "--ca-passphrase-file", "word").code == 0
    assert bake("client", "list").code == 0, "the list needs no key"


# --- a CA elsewhere ---------------------------------------------------------------------------------------------


def sign(request: Path, ca: Path) -> None:
    words = ["openssl", "x509", "-req", "-in", request, "-CA", ca / "ca.pem", "-CAkey", ca / "ca.key", "-days", "90"]
    words += ["-copy_extensions", "copy", "-out", request.with_suffix(".pem")]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


def test_a_ca_elsewhere_signs_a_request(bake: Bake, plan: Any, tool: Callable[[str], str], picture: Picture) -> None:
    tool("openssl")
    own = pki.create_authority(plan(pki={"nameConstraints": "none"}), now=datetime.now(UTC))
    Path("ca.pem").write_bytes(own.cert_pem)
    Path("ca.key").touch(mode=0o600)
    Path("ca.key").write_bytes(own.key_pem)
    Path("own.yaml").write_text("nodes: 1\npki: {ca: {certificate: ca.pem}}\n")
    assert bake("--config", "own.yaml").code == 3
    for request in FOLDER.glob("requests/**/*.csr"):
        sign(request, Path())
    assert bake("--config", "own.yaml").code == 0
    result = bake("client", "add", "db", "--for", "patroni")
    assert (result.code, "your CA must issue the certificate of db" in result.err) == (3, True)
    assert (home("db") / "client.key").stat().st_mode & 0o777 == 0o600
    assert json.loads(bake("client", "-o", "json").out)["clients"][0]["days_left"] is None
    before = picture(Path("out"))
    assert (bake("client", "add", "db").code, picture(Path("out"))) == (3, before)
    assert bake().code == 0
    assert (home("db") / "client.csr").exists(), "a bake keeps the request"
    wrong = x509.load_pem_x509_csr((home("db") / "client.csr").read_bytes())
    assert list(wrong.subject.get_attributes_for_oid(NameOID.COMMON_NAME)) == []
    sign(home("db") / "client.csr", Path())
    done = bake("client", "add", "db")
    assert done.code == 0, done.err
    assert not (home("db") / "client.csr").exists()
    assert bake("client", "add", "db").err.startswith("db: unchanged")
    assert bake("client", "add", "db", "--renew").code == 3
    (home("db") / "client.pem").write_bytes(own.cert_pem)
    misfit = bake("client", "add", "db")
    assert (misfit.code, "has a public key that differs" in misfit.err) == (2, True)


# --- authentication ---------------------------------------------------------------------------------------------


@pytest.fixture
def auth(bake: Bake) -> None:
    Path("auth.yaml").write_text(AUTH)
    assert bake("--config", "auth.yaml").code == 0


@pytest.mark.usefixtures("auth")
def test_with_auth_an_application_needs_a_user_with_its_rights(bake: Bake) -> None:
    missing = bake("client", "add", "other", "--for", "kubernetes")
    assert missing.code == 2
    assert "auth.users: etcd's authentication is on, and the cluster file has no user 'other'" in missing.err
    snippet = missing.err.partition("`bake apply --config FILE`: ")[2].strip()
    assert yaml.safe_load(snippet) == {
        "auth": {
            "enabled": True, "users": [{"name": "other", "roles": ["kubernetes"]}],
            "roles": [yaml.safe_load(KUBERNETES)],
        }
    }  # fmt: skip
    Path("more.yaml").write_text(f"nodes: 3\n{snippet}\n")
    assert bake("check", "--config", "more.yaml").code == 0, "the snippet is a cluster file"
    weak = bake("client", "add", "idle", "--for", "kubernetes")
    rule = "the roles of the user 'idle' do not permit reading and writing the prefix /registry/ and the key compact_"
    assert (weak.code, rule in weak.err) == (2, True)
    assert bake("client", "add", "kube-apiserver", "--for", "kubernetes").code == 0
    assert "--etcd-compaction-interval=0\n" in (home("kube-apiserver") / "kube-apiserver.flags").read_text()
    assert bake("client", "add", "idle", "--for", "generic").code == 0, "a generic program's needs are unknown"
    metrics = bake("client", "add", "metrics", "--for", "prometheus")
    assert (metrics.code, "reads metrics, but no key" in metrics.err) == (0, True)


@pytest.mark.usefixtures("auth")
@pytest.mark.parametrize("name", ["7", "1e3", "null", "true"])
def test_the_cluster_file_in_a_hint_quotes_the_name(bake: Bake, name: str) -> None:
    result = bake("client", "add", name, "--for", "generic")
    Path("more.yaml").write_text(f"nodes: 3\n{result.err.partition('FILE`: ')[2].strip()}\n")
    assert bake("check", "--config", "more.yaml").code == 0


@pytest.mark.usefixtures("auth")
def test_with_auth_patroni_gets_a_password_that_is_never_printed(bake: Bake) -> None:
    result = bake("client", "add", "db", "--for", "patroni")
    assert result.code == 0, result.err
    password = (home("db") / "password").read_text().strip()
    assert len(password) >= 40
    assert f"PATRONI_ETCD3_PASSWORD={password}\n" in (home("db") / "patroni.env").read_text()
    assert {path.name: path.stat().st_mode & 0o777 for path in home("db").iterdir()} == {
        "ca.pem": 0o644, "client.pem": 0o644, "client.json": 0o644, "patroni.yml": 0o644, "client.key": 0o600,
        "password": 0o600, "patroni.env": 0o600,
    }  # fmt: skip
    for output in (result, bake("client", "add", "db"), bake("client", "add", "db", "-o", "json")):
        assert password not in output.out + output.err
    assert f"user add db --interactive=false <{home('db').absolute()}/password" in result.err
    assert "user grant-role db patroni" in result.err
    assert (home("db") / "password").read_text().strip() == password
    user = bake("client", "add", "app1", "--for", "patroni")
    assert (user.code, "'app1' is a user of the cluster file, whose users have no password" in user.err) == (2, True)


def test_without_a_role_patroni_is_refused(bake: Bake) -> None:
    Path("auth.yaml").write_text("nodes: 1\nauth: true\n")
    bake("--config", "auth.yaml")
    result = bake("client", "add", "db", "--for", "patroni")
    rule = "auth.roles: no role permits reading and writing the prefix /service/"
    assert (result.code, rule in result.err) == (2, True)
    assert yaml.safe_load(result.err.partition("FILE`: ")[2])["auth"]["roles"] == [yaml.safe_load(PATRONI)]


@pytest.mark.usefixtures("auth")
def test_a_client_that_lost_its_user_is_shown(bake: Bake) -> None:
    bake("client", "add", "kube-apiserver", "--for", "kubernetes")
    Path("auth.yaml").write_text("nodes: 3\nauth: true\n")
    bake("--config", "auth.yaml", "--yes")
    assert [one.outdated for one in clients.statuses(open_cluster(store()), now=datetime.now(UTC))] == [
        "without access"
    ]


ACCESS: dict[str, tuple[PermissionSpec, bool]] = {
    "exactly": (PermissionSpec(prefix="/service/"), True),
    "a shorter prefix": (PermissionSpec(prefix="/"), True),
    "a longer prefix": (PermissionSpec(prefix="/service/main"), False),
    "a key": (PermissionSpec(key="/service/"), False),
    "only reading": (PermissionSpec(prefix="/service/", access=Access.READ), False),
}


@pytest.mark.parametrize(("permission", "suffices"), ACCESS.values(), ids=ACCESS)
def test_a_permission_must_cover_what_is_needed(permission: PermissionSpec, suffices: bool) -> None:
    spec = AuthSpec(enabled=True, roles=(RoleSpec(name="r", permissions=(permission,)),))
    assert ([*check_access(spec, "db", Kind.PATRONI)] == []) == suffices


def test_the_role_root_suffices() -> None:
    spec = AuthSpec(enabled=True, users=(UserSpec(name="k", roles=("root",)),))
    assert [*check_access(spec, "k", Kind.KUBERNETES)] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, False), ({"auto-compaction-retention": "0"}, False), ({"auto-compaction-retention": 0}, False),
     ({"auto-compaction-retention": "1h"}, True), ({"auto-compaction-retention": 1000}, True)],
)  # fmt: skip
def test_etcd_compacts_with_a_retention(options: dict[str, Any], expected: bool) -> None:
    assert compacts(options) == expected


@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_every_valid_name_is_a_folder_below_clients(name: str) -> None:
    path = Path("/x/clients") / name
    assert path.resolve() == path
