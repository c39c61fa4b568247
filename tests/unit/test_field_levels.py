"""The levels of fields: every field has a row, and no row promises less than the nodes' seeds and VMs need.

`pytest --golden tests/unit/test_field_levels.py` writes the tables in docs/reference/levels.md.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import pytest
from hypothesis import given, settings

from generator import pki
from generator.change.spec_changes import compare
from generator.config.auth import AuthSpec
from generator.config.field_levels import ROWS, field_level
from generator.config.field_levels.row import FieldLevel
from generator.config.fields import plain, settings_of
from generator.config.hosts import HostSpec
from generator.config.load import load
from generator.config.rules import check_spec
from generator.config.spec import ClusterSpec, NodeSpec, read_spec
from generator.config.user_input import ExistingCluster, flat, put, without
from generator.errors import InputError
from generator.level import Level
from generator.operations.bake import bake
from generator.plan import ClusterPlan, plan_cluster
from generator.seed import guest_files, iso
from generator.seed.seed_level import compare_seeds
from generator.store.existing_cluster import load_existing
from generator.store.folder import Store
from generator.vm.domain_xml import Accel, Files, Owner, domain_xml
from tests.hostile.specs import SPECS
from tests.unit.levels import highest_level

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/levels.md"
DATA = ROOT / "tests/data"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPy2Idwmp1bPrpUpfZqVKxg7Y0yDWT0yF3r8fNw0o5mT"
ARCHIVE = {
    "method": "archive",
    "archive": str(DATA / "etcd.tar.gz"),
    "sha256": hashlib.sha256((DATA / "etcd.tar.gz").read_bytes()).hexdigest(),
}
EXACT = (Level.LIVE, Level.RESTART, Level.REBOOT)
# Node changes have rows, but their paths are not paths of single fields.
LISTED = {"nodes", "nodes[].name", "nodes[].address", "nodes[].mac", "nodes[].host", "hosts"}
# No bake can change these fields: `apiVersion` has one value, and another name means another folder.
FIXED = {("apiVersion", ""), ("name", "")}

Fields = dict[str, Any]
NODES = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
PLACED = [{"name": f"n{i}", "address": f"192.168.20.{40 + i}", "mac": f"52:54:00:00:00:0{i}"} for i in range(3)]
USERS = {"enabled": True, "users": [{"name": "app", "roles": ["r"]}], "roles": [{"name": "r"}]}
STATED = {"peerName": "stated", "peerCa": {"separate": True}}
SHARED = {"certificates": "shared"}
OWN = {"extensions": "document", "peerName": "none"}


SHARED_LAN = {"mode": "bridge", "bridge": "br0"}
HOSTS = [{"name": f"host{i}", "uri": f"qemu+ssh://host{i}/system"} for i in range(3)]


def on_hosts(*hosts: Fields, pins: Sequence[str] = ()) -> Fields:
    nodes = [{"name": name, **({"host": pin} if pin else {})} for name, pin in zip("abc", (*pins, "", "", ""))]  # noqa: B905
    return {"nodes": nodes, "network": SHARED_LAN, "hosts": list(hosts)}


def host_examples() -> Iterator[tuple[str, str, Fields, Fields]]:
    three = on_hosts(*HOSTS)
    yield "nodes[].host", "", three, on_hosts(*HOSTS, pins=("host1", "host0"))
    yield "hosts", "a host is added", three, on_hosts(*HOSTS, {"name": "host3", "uri": "qemu+ssh://host3/system"})
    spare = {"name": "spare", "uri": "qemu+ssh://spare/system"}
    four = on_hosts(*HOSTS, spare)
    yield "hosts", "a host without nodes is removed", four, three
    yield "hosts", "a host with nodes is removed", three, on_hosts(*HOSTS[:2])
    values = {"uri": "qemu+tls://host2/system", "failureDomain": "rack1", "pool": "/data"}
    for part, value in values.items():
        yield f"hosts[].{part}", "", three, on_hosts(*HOSTS[:2], {**HOSTS[2], part: value})
    yield "hosts[].offline", "", four, on_hosts(*HOSTS, {**spare, "offline": True})
    yield "hosts[].bridge", "", three, on_hosts(*HOSTS[:2], {**HOSTS[2], "bridge": "br1"})


IN_INCUS = {"engine": "incus", "network": SHARED_LAN}


def incus_examples() -> Iterator[tuple[str, str, Fields, Fields]]:
    yield "engine", "", {"network": SHARED_LAN}, IN_INCUS
    values = {
        "remote": "lab", "addresses": ["https://host2:8443"], "project": "etcd", "pool": "fast", "profile": "small",
        "nic": "macvlan", "group": "rack1",
    }  # fmt: skip
    for part, value in values.items():
        yield f"incus.{part}", "", IN_INCUS, {**IN_INCUS, "incus": {part: value}}


def examples() -> Iterator[tuple[str, str, Fields, Fields]]:
    """Yield a field and a case of the table, and the cluster files before and after a change."""
    yield "nodes", "a node is added", {}, {"nodes": 5}
    yield "nodes", "a node is added", {"auth": True}, {"nodes": 4, "auth": True}
    yield "nodes", "a node is added", {"pki": SHARED}, {"nodes": 4, "pki": SHARED}
    yield "nodes", "a node is removed", {}, {"nodes": 1}
    yield "nodes", "a node is removed", {"nodes": PLACED}, {"nodes": PLACED[1:]}
    yield "nodes", "another order", {"nodes": PLACED}, {"nodes": PLACED[::-1]}
    yield "nodes[].name", "", {"nodes": NODES}, {"nodes": [*NODES[:2], {"name": "d"}]}
    yield "nodes[].address", "", {"nodes": NODES}, {"nodes": [*NODES[:2], {"name": "c", "address": "192.168.20.99"}]}
    yield "nodes[].mac", "", {"nodes": NODES}, {"nodes": [*NODES[:2], {"name": "c", "mac": "52:54:00:00:00:01"}]}
    yield "network.subnet", "", {}, {"network": {"subnet": "10.1.0.0/24"}}
    yield "network.firstIp", "", {"nodes": PLACED}, {"nodes": PLACED, "network": {"firstIp": "192.168.20.77"}}
    yield "network.gateway", "to the same address", {}, {"network": {"gateway": "192.168.20.1"}}
    yield "network.gateway", "", {}, {"network": {"gateway": "192.168.20.254"}}
    dns = {"network": {"dns": ["9.9.9.9"]}}
    yield "network.dns", "if the gateway becomes a DNS server", dns, {"network": {"dns": ["9.9.9.9", "192.168.20.1"]}}
    yield "network.dns", "if the gateway becomes a DNS server", dns, {}
    yield "network.dns", "", {}, {"network": {"dns": ["9.9.9.9"]}}
    yield "network.mode", "", {}, {"network": {"mode": "isolated"}}
    bridge, existing = {"mode": "bridge", "bridge": "br0"}, {"mode": "network", "name": "lan"}
    yield "network.bridge", "", {"network": bridge}, {"network": {**bridge, "bridge": "br1"}}
    yield "network.vlan", "", {"network": bridge}, {"network": {**bridge, "vlan": 20}}
    yield "network.name", "", {"network": existing}, {"network": {**existing, "name": "dmz"}}
    yield from host_examples()
    yield from incus_examples()
    yield from pki_examples()
    yield "etcd.version", "to an older version", {"etcd": {"version": "3.6"}}, {}
    yield "etcd.version", "", {}, {"etcd": {"version": "3.6"}}
    for field, value in (("clientPort", 4001), ("peerPort", 4002), ("dataDir", "/var/lib/etcd/other")):
        yield f"etcd.{field}", "", {}, {"etcd": {field: value}}
    yield "etcd.token", "", {}, {"etcd": {"token": "t"}}
    yield "etcd.tlsMinVersion", "", {}, {"etcd": {"tlsMinVersion": "1.3"}}
    yield "etcd.cipherSuites", "", {}, {"etcd": {"cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]}}
    yield "etcd.options.*", "", {}, {"etcd": {"options": {"heartbeat-interval": 200}}}
    yield "etcd.options.*", "", {"etcd": {"options": {"pre-vote": True, "snapshot-count": 100}}}, {
        "etcd": {"options": {"snapshot-count": 200}}
    }
    yield "firewall.kind", "from `firewalld`", {"firewall": {"kind": "firewalld"}}, {}
    for kind in ("none", "firewalld", "iptables", "ufw"):
        yield "firewall.kind", "", {}, {"firewall": {"kind": kind}}
    yield "firewall.clientCidrs", "", {}, {"firewall": {"clientCidrs": ["10.0.0.0/8", "subnet"]}}
    yield "join", "", {}, {"join": "voter"}
    yield "auth.enabled", "to `false`", {"auth": True}, {}
    yield "auth.enabled", "", {}, {"auth": True}
    yield "auth.users", "", {"auth": USERS}, {"auth": {**USERS, "users": [{"name": "other", "roles": ["root"]}]}}
    roles = [{"name": "r", "permissions": [{"key": "k"}]}]
    yield "auth.roles", "", {"auth": USERS}, {"auth": {**USERS, "roles": roles}}
    yield "access.readers", "", {}, {"access": {"readers": ["backup"]}}
    yield "access.readers", "", {"access": {"readers": ["backup"]}}, {}
    yield "access.sshKeys", "", {}, {"access": {"sshKeys": [SSH_KEY]}}
    yield "access.sshKeys", "", {"access": {"sshKeys": [SSH_KEY]}}, {}
    yield "access.sshKeys", "other keys", {"access": {"sshKeys": [SSH_KEY]}}, {"access": {"sshKeys": [SSH_KEY + " a"]}}
    yield "access.rootShell", "", {}, {"access": {"rootShell": True}}
    yield "access.rootShell", "", {"access": {"rootShell": True}}, {}
    yield "install.method", "", {}, {"install": {"method": "package", "packages": ["etcd-server"]}}
    yield "install.method", "", {}, {"install": ARCHIVE}
    yield "install.packages", "", {}, {"install": {"packages": ["acl"]}}
    yield "install.archive", "", {"install": ARCHIVE}, {"install": {**ARCHIVE, "archive": "copy.tar.gz"}}
    yield "install.sha256", "", {"install": ARCHIVE}, {"install": {**ARCHIVE, "archive": "other", "sha256": "other"}}
    machine = (("memory", 2048), ("cpus", 2), ("disk", 9), ("dataDisk", 0), ("image", "x.qcow2"), ("firmware", "efi"))
    for field, value in machine:
        yield f"vm.{field}", "", {}, {"vm": {field: value}}
    yield "vm.sha256", "", {"vm": {"image": "x.qcow2"}}, {"vm": {"image": "x.qcow2", "sha256": "0" * 64}}


def pki_examples() -> Iterator[tuple[str, str, Fields, Fields]]:
    def one(field: str, case: str, old: Fields, new: Fields) -> tuple[str, str, Fields, Fields]:
        return f"pki.{field}", case, {"pki": old}, {"pki": new}

    yield one("caDays", "", {}, {"caDays": 4000})
    yield one("nameConstraints", "", {}, {"nameConstraints": "all"})
    yield one("nameConstraints", "", {"nameConstraints": "all"}, {"nameConstraints": "none"})
    for field, value in (("keyType", "ecdsa-p384"), ("leafDays", 90), ("extensions", "document")):
        yield one(field, "", {}, {field: value})
    yield one("singleLabelNames", "", {"singleLabelNames": True}, {})
    yield one("singleLabelNames", "", {"extensions": "document"}, {"extensions": "document", "singleLabelNames": True})
    for field in settings_of(type(ClusterSpec().pki.subject)):
        yield one("subject.*", "", {}, {"subject": {field: "CN"}})
    required = "while `pki.peerName` is `required`"
    yield one("certificates", required, {}, SHARED)
    yield one("certificates", required, SHARED, {})
    yield one("certificates", "", STATED, {**STATED, "certificates": "shared"})
    yield one("certificates", "", {**STATED, "certificates": "shared"}, STATED)
    shared: Fields = {"auth": True, "pki": {**STATED, "certificates": "shared"}}
    yield "pki.certificates", "to `per-node` with auth", shared, {"auth": True, "pki": STATED}
    yield one("permissions", "", {}, {"permissions": "acl"})
    yield one("domain", "to the same domain", {}, {"domain": "etcd.internal"})
    bound = "with a CA of bake, or if `pki.peerName` is `required`"
    yield one("domain", bound, {}, {"domain": "example.org"})
    yield one("domain", bound, {"extensions": "document"}, {"extensions": "document", "domain": "example.org"})
    yield one("domain", "", OWN, {**OWN, "domain": "example.org"})
    free = {"nameConstraints": "none", "peerName": "none"}
    yield one("domain", "", free, {**free, "domain": "example.org"})
    skips = "between `none` and `required`"
    yield one("peerName", skips, {"peerName": "none"}, {"peerName": "required"})
    yield one("peerName", skips, {"peerName": "required"}, {"peerName": "none"})
    yield one("peerName", "to `required`", STATED, {**STATED, "peerName": "required"})
    yield one(
        "peerName", "to `required`", {**SHARED, "peerName": "none"}, {**SHARED, "peerName": "required"},
    )  # fmt: skip
    yield one("peerName", "from `required`", {**STATED, "peerName": "required"}, STATED)
    yield one("peerName", "", {**STATED, "peerName": "none"}, STATED)
    yield one("peerCa.separate", "", {"peerCa": {"separate": True}}, {"peerCa": {"separate": False}})
    for section in ("ca", "peerCa"):
        files = {name: f"{section}.{name}" for name in ("certificate", "key")}
        for name in files:
            moved = {**files, name: f"copy.{section}.{name}"}
            yield one(f"{section}.{name}", "", {section: files}, {section: moved})


EXAMPLES = list(examples())


# --- the table ----------------------------------------------------------------------------------------------


def fields_of(section: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field; a list is one field."""
    for name, info in settings_of(section).items():
        inner = info.metadata.get("section")
        yield from fields_of(inner, (*path, name)) if inner else [(*path, name)]


def test_every_field_has_a_row_and_every_row_is_about_a_field() -> None:
    plain_fields = {".".join(path) for path in fields_of(ClusterSpec)}
    fields = plain_fields | {f"nodes[].{name}" for name in settings_of(NodeSpec)} | {"etcd.options.any"}
    fields |= {f"hosts[].{name}" for name in settings_of(HostSpec)} - {"hosts[].name"}  # another name: another host
    covered = {row.field: {name for name in fields if row.covers(name)} for row in ROWS}
    assert set().union(*covered.values()) == fields - {"etcd.options"}
    assert all(covered.values())
    assert {"users", "roles"} <= set(settings_of(AuthSpec))


def test_the_last_row_of_a_field_is_for_every_other_change() -> None:
    old, new = ClusterSpec(), ClusterSpec()
    for field, rows in groupby(ROWS, lambda row: row.field):
        *cases, last = rows
        assert all(row.case for row in cases)
        assert field in LISTED or not last.case
        assert last.applies(old, new)
    assert len({row.field for row in ROWS}) == len(list(groupby(ROWS, lambda row: row.field)))


def test_a_field_without_a_row_is_an_error() -> None:
    with pytest.raises(KeyError):
        field_level(("etcd", "none"), ClusterSpec(), ClusterSpec())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.field} {row.case}")
def test_a_row_has_its_sentences(row: FieldLevel) -> None:
    assert bool(row.why) == (row.level is Level.REFUSED)
    assert row.how.endswith(".") != (row.level is Level.REFUSED)
    assert not row.why.endswith(".")


# --- the table and the seeds --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CAs and etcd tarballs, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    plan = plan_cluster(read_spec({"pki": {"peerCa": {"separate": True}}})[0])
    for name, role in (("ca", pki.Role.CA), ("peerCa", pki.Role.PEER_CA)):
        authority = pki.create_authority(plan, role, now=now)
        for prefix in ("", "copy."):
            Path(f"{prefix}{name}.certificate").write_bytes(authority.cert_pem)
            Path(f"{prefix}{name}.key").write_bytes(authority.key_pem)
            Path(f"{prefix}{name}.key").chmod(0o600)
    shutil.copy(ARCHIVE["archive"], "copy.tar.gz")
    shutil.copy(ARCHIVE["archive"], "other")
    with Path("other").open("ab") as file:
        file.write(b"\0" * 512)
    return tmp_path


def spec_of(fields: Fields) -> ClusterSpec:
    if fields.get("install", {}).get("sha256") == "other":
        fields["install"]["sha256"] = hashlib.sha256(Path("other").read_bytes()).hexdigest()
    Path("cluster.yaml").write_text(repr(fields))  # YAML contains the notation of Python for these values
    return load(config=Path("cluster.yaml"), profile="default").spec


def seeds(store: Store, plan: ClusterPlan) -> dict[str, dict[str, bytes]]:
    names = ("user-data", "network-config")
    return {node.name: {name: (store.folder / node.name / name).read_bytes() for name in names} for node in plan.nodes}


def machines(plan: ClusterPlan) -> dict[str, str]:
    owner = Owner(cluster="etcd", cluster_id="1", version="1")
    files = Files(disk="d", seed=None, console="c", journal="j")
    return {node.name: domain_xml(plan, node, files, Accel.KVM, owner) for node in plan.nodes}


def needed(
    old: dict[str, dict[str, bytes]], new: dict[str, dict[str, bytes]], before: ClusterPlan, after: ClusterPlan
) -> Level:
    """Return what the nodes in both clusters must do: for their seeds, and for their VMs."""
    vms, wanted = machines(before), machines(after)
    levels = [compare_seeds(old[node], new[node], node=node).level for node in old if node in new]
    levels += [Level.REBOOT for node in vms if wanted.get(node, vms[node]) != vms[node]]
    return max(levels, key=lambda level: level.rank, default=Level.NONE)


@pytest.mark.parametrize(
    ("field", "case", "old", "new"), EXAMPLES, ids=[f"{one[0]} {one[1]} {i}" for i, one in enumerate(EXAMPLES)]
)
@pytest.mark.usefixtures("files")
def test_a_row_is_what_seeds_and_machines_need(
    field: str, case: str, old: Fields, new: Fields, now: datetime
) -> None:
    store, specs = Store(Path("out"), "etcd"), [spec_of(old), spec_of(new)]
    plans = [plan_cluster(spec) for spec in specs]
    bake(specs[0], store, now=now, report=print)
    before, existing = seeds(store, plans[0]), load_existing(store)
    assert existing
    changes = compare(existing._replace(sealed=True), specs[1])
    (row,) = (row for row in ROWS if (row.field, row.case) == (field, case))
    assert row in [change.rule for change in changes]
    assert highest_level(changes) is row.level
    try:
        bake(specs[1], store, now=now, report=print)
    except InputError:
        assert row.level is Level.REFUSED
        return
    level = needed(before, seeds(store, plans[1]), *plans)
    assert row.level.rank >= level.rank
    if row.level in EXACT:
        assert row.level is level


def test_every_row_has_an_example() -> None:
    assert {(row.field, row.case) for row in ROWS} - FIXED == {(field, case) for field, case, *_ in EXAMPLES}


@pytest.fixture(scope="module")
def credentials(plan: Callable[..., ClusterPlan], now: datetime) -> pki.NodePki:
    """Return the certificates of a node. All tests use the same certificates, because generating keys takes long."""
    authority = pki.create_authority(plan(), now=now)
    return {pki.Role.CA: authority, **next(pki.issue_nodes(plan(), authority, now=now))}


def paper_seeds(plan: ClusterPlan, credentials: pki.NodePki) -> dict[str, dict[str, bytes]]:
    """Return the seed of the first node. Its certificates are the same in every cluster."""
    peer_ca = credentials[pki.Role.CA].cert_pem if plan.spec.pki.peer_ca.separate else None
    trust = guest_files.Trust(identity="0" * 32, ca_pem=credentials[pki.Role.CA].cert_pem, peer_ca_pem=peer_ca)
    return {
        node.name: {
            str(file.path): file.data
            for file in iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, credentials))
        }
        for node in plan.nodes[:1]
    }


FIXED_SECTIONS = ("apiVersion", "name", "network")


@given(old=SPECS, other=SPECS)
@settings(max_examples=15)
def test_no_field_of_a_random_cluster_promises_less_than_the_seeds_need(
    old: Fields, other: Fields, credentials: pki.NodePki
) -> None:
    """Each field of a random cluster gets the value of another cluster. Certificates stay the same."""
    before = plan_cluster(read_spec(old)[0])
    value, values = plain(before.spec), flat(plain(read_spec(other)[0]))
    existing = ExistingCluster(
        where="", digest="", value=value, origins={}, user_input=None, input_origins={}, nodes=frozenset(),
        has_requests=False, sealed=True, is_known=True,
    )  # fmt: skip
    seeds_before = paper_seeds(before, credentials)
    for path, old_value in {**dict.fromkeys(values), **flat(value)}.items():
        if path[0] in FIXED_SECTIONS or values.get(path) == old_value:
            continue
        changed = without(value, [path])
        if path in values:
            put(changed, path, values[path])
        spec, wrong = read_spec(changed)
        if wrong or check_spec(spec)[0]:
            continue  # the value does not fit to the other fields
        after = plan_cluster(spec)
        level = needed(seeds_before, paper_seeds(after, credentials), before, after)
        assert highest_level(compare(existing, after.spec)).rank >= level.rank, path


# --- the page -----------------------------------------------------------------------------------------------

MARKERS = re.compile(r"(<!-- (\w+): [^>]* -->\n).*?(<!-- /\2 -->)", re.DOTALL)
WIDTH = 100


def table(level: Level) -> str:
    """Return the rows of a level: a table, or a list with the reasons of refused changes."""
    rows = [row for row in ROWS if row.level is level]
    if level is Level.REFUSED:
        return "\n".join(refusals(rows))
    lines = [f"| {named(row)} | {row.how.removesuffix('.')} |" for row in rows]
    notes = [wrapped(f"- {_moment(row)} a change of {named(row)}: {row.note}.") for row in rows if row.note]
    return "\n".join(["| change of | effect |", "| --- | --- |", *lines, *([""] if notes else []), *notes])


def wrapped(item: str) -> str:
    """Return an item of a list in lines that fit on a screen."""
    return fill(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _moment(row: FieldLevel) -> str:
    return "After" if row.level is Level.NONE else "Before"


def named(row: FieldLevel) -> str:
    is_split = any(other.field == row.field and other.case for other in ROWS)
    case = row.case or ("otherwise" if is_split else "")
    return f"`{row.field}`" + (f", {case}" if case else "")


def refusals(rows: list[FieldLevel]) -> Iterator[str]:
    reasons = dict.fromkeys((row.why, row.how) for row in rows)
    for why, how in reasons:
        names = "; ".join(named(row) for row in rows if (row.why, row.how) == (why, how))
        yield wrapped(f"- {names}: {why}. To reach the same result, {how}.")


def test_the_page_shows_the_table(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text()
    made = MARKERS.sub(lambda found: f"{found[1]}{table(Level(found[2]))}\n{found[3]}", text)
    if request.config.getoption("--golden"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made
    assert re.findall(r"<!-- (\w+):", text) == list(Level)
    assert [line for line in made.splitlines() if len(line) > WIDTH] == []
