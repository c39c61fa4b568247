"""The table of file levels has the intended rule for every file and every variable in the seeds of all profiles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest

from generator.config.load import load, profile_names
from generator.level import Level
from generator.pki import NODE_ROLES, create_authority, issue_nodes
from generator.plan import ClusterPlan, plan_cluster
from generator.seed import iso
from generator.seed.file_levels import FILES, TABLE, VARIABLES, level_table
from generator.seed.guest.usr.libexec.bake import seed_change
from generator.seed.guest_files import Trust, guest_files
from generator.seed.seed_level import SeedChange, compare_seeds

LIVE, RESTART, REBOOT = Level.LIVE, Level.RESTART, Level.REBOOT
ARCHIVE = {"--archive": (("install", "archive"), "e.tar.gz"), "--archive-sha256": (("install", "sha256"), "0" * 64)}
AUTH = {"--auth": (("auth",), True)}
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPy2Idwmp1bPrpUpfZqVKxg7Y0yDWT0yF3r8fNw0o5mT"
WAY_IN = {"--ssh-keys": (("access", "sshKeys"), [SSH_KEY]), "--root-shell": (("access", "rootShell"), True)}
FIREWALL, PROMOTE, ACCESS, TIMER = (
    "etcd-firewall.service", "etcd-promote.service", "etcd-access.service", "etcd-audit.timer"
)  # fmt: skip
# Every file of every profile. A new file needs a decision, and an entry here.
EXPECTED: dict[str, tuple[Level, tuple[str, ...]]] = {
    "/etc/etcd/pki/etcd-ca.pem": (RESTART, ()),
    "/etc/etcd/pki/etcd-peer-ca.pem": (RESTART, ()),
    **{f"/etc/etcd/pki/{role}.{kind}": (LIVE, ()) for role in NODE_ROLES for kind in ("pem", "key")},
    "/etc/etcd/auth.json": (LIVE, (PROMOTE,)),
    "/usr/libexec/bake/apply-seed": (LIVE, ()),
    "/usr/libexec/bake/cluster.py": (LIVE, ()),
    "/usr/libexec/bake/etcd-audit": (LIVE, ()),
    "/usr/libexec/bake/etcd-data": (LIVE, ()),
    "/usr/libexec/bake/etcd-failed": (LIVE, ()),
    "/etc/systemd/system/journal-copy.service": (LIVE, ()),
    "/usr/libexec/bake/journal-copy": (LIVE, ()),
    "/usr/libexec/bake/read-journal": (LIVE, ()),
    "/usr/libexec/bake/etcd-auth": (LIVE, ()),
    "/usr/libexec/bake/etcd-firewall": (LIVE, (FIREWALL,)),
    "/usr/libexec/bake/etcd-install": (LIVE, ()),
    "/usr/libexec/bake/etcd-join": (LIVE, ()),
    "/usr/libexec/bake/etcd-promote": (LIVE, ()),
    "/usr/libexec/bake/etcd-restart": (LIVE, ()),
    "/usr/libexec/bake/etcd-start": (RESTART, ()),
    "/usr/libexec/bake/file-levels.json": (LIVE, ()),
    "/usr/libexec/bake/first-boot-done": (LIVE, ()),
    "/usr/libexec/bake/forget-seed": (LIVE, ()),
    "/usr/libexec/bake/join_decision.py": (LIVE, ()),
    "/usr/libexec/bake/node.py": (LIVE, ()),
    "/usr/libexec/bake/peers.py": (LIVE, ()),
    "/usr/libexec/bake/restore.py": (LIVE, ()),
    "/usr/libexec/bake/seed_change.py": (LIVE, ()),
    "/usr/libexec/bake/seed_files.py": (LIVE, ()),
    "/etc/systemd/system/apply-seed.service": (LIVE, ()),
    "/etc/systemd/system/etcd.service": (RESTART, ()),
    "/etc/systemd/system/etcd-access.service": (LIVE, (ACCESS,)),
    "/etc/systemd/system/etcd-audit.service": (LIVE, ()),
    "/etc/systemd/system/etcd-audit.timer": (LIVE, (TIMER,)),
    "/etc/systemd/system/etcd-data.service": (LIVE, ()),
    "/etc/etcd/ssh/authorized_keys": (LIVE, ()),
    "/etc/ssh/sshd_config.d/50-bake.conf": (REBOOT, ()),
    "/etc/systemd/system/root-shell.service": (LIVE, ()),
    "/etc/systemd/system/etcd-firewall.service": (LIVE, (FIREWALL,)),
    "/etc/systemd/system/etcd-promote.service": (LIVE, ()),
    "/etc/systemd/system/etcd-report.service": (LIVE, ()),
    "/etc/systemd/system/etcd-restart.service": (LIVE, ()),
    "/etc/systemd/system/forget-seed.service": (LIVE, ()),
    "/etc/systemd/system/report-boot.service": (LIVE, ()),
    "/etc/systemd/system/run-bake-medium.mount": (LIVE, ()),
    "/etc/systemd/system/var-lib-etcd.mount": (LIVE, ()),
    "/etc/udev/rules.d/80-bake-seed.rules": (LIVE, ()),
}
# Every variable of bake.env, and the variables of etcd.conf that are not options. Options restart etcd.
EXPECTED_VARIABLES: dict[str, tuple[Level, tuple[str, ...]]] = {
    "BAKE_NAME": (REBOOT, ()),
    "BAKE_PEER_URL": (REBOOT, ()),
    "BAKE_CLIENT_URL": (REBOOT, ()),
    "BAKE_MEMBERS": (LIVE, ()),
    "BAKE_CLIENT_URLS": (LIVE, ()),
    "BAKE_BOOTSTRAP": (LIVE, ()),
    "BAKE_TOKEN": (LIVE, ()),
    "BAKE_PERMIT": (REBOOT, ()),
    "BAKE_PERMIT_FILE": (REBOOT, ()),
    "BAKE_PERMIT_SHA256": (LIVE, ()),
    "BAKE_SNAPSHOT": (LIVE, ()),
    "BAKE_JOIN": (LIVE, ()),
    "BAKE_DATA_DIR": (REBOOT, ()),
    "BAKE_RUN_DIR": (REBOOT, ()),
    "BAKE_ETCDCTL": (REBOOT, ()),
    "BAKE_FIREWALL": (REBOOT, ()),
    "BAKE_CLIENT_PORT": (REBOOT, ()),
    "BAKE_PEER_PORT": (REBOOT, ()),
    "BAKE_CLIENT_CIDRS": (LIVE, (FIREWALL,)),
    "BAKE_PEER_CIDRS": (LIVE, (FIREWALL,)),
    "BAKE_AUTH": (RESTART, ()),
    "BAKE_SERVER_NAME": (RESTART, ()),
    "BAKE_ARCHIVE_NAME": (REBOOT, ()),
    "BAKE_ARCHIVE_SHA256": (REBOOT, ()),
    **dict.fromkeys(("ETCDCTL_API", "ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"), (REBOOT, ())),
    **dict.fromkeys(("ETCD_NAME", "ETCD_DATA_DIR", "ETCD_LISTEN_PEER_URLS", "ETCD_LISTEN_CLIENT_URLS"), (REBOOT, ())),
    **dict.fromkeys(("ETCD_ADVERTISE_CLIENT_URLS", "ETCD_INITIAL_ADVERTISE_PEER_URLS"), (REBOOT, ())),
    **dict.fromkeys((f"ETCD_INITIAL_CLUSTER{end}" for end in ("", "_STATE", "_TOKEN")), (LIVE, ())),
    **dict.fromkeys(("ETCD_TLS_MIN_VERSION", "ETCD_CIPHER_SUITES", "ETCD_CERT_FILE"), (RESTART, ())),
    "ETCD_INITIAL_ELECTION_TICK_ADVANCE": (RESTART, ()),
}
Plan = Callable[..., ClusterPlan]
Seed = dict[str, bytes]


@pytest.fixture(scope="module")
def seed_of(now: datetime) -> Callable[..., Seed]:
    """Make a seed of the first node, with the same keys every time, or with other keys for another `key`."""

    @cache
    def credentials(key: int) -> tuple[Any, Any]:
        plan = plan_cluster(load().spec)
        authority = create_authority(plan, now=now)
        return authority, next(iter(issue_nodes(plan, authority, now=now)))

    def make(plan: ClusterPlan, *, key: int = 0, ca: int = 0, identity: str = "0" * 32, node: int = 0) -> Seed:
        trust = Trust(identity=identity, ca_pem=credentials(ca)[0].cert_pem)
        files = guest_files(plan, plan.nodes[node], trust, credentials(key)[1])
        return {str(file.path): file.data for file in iso.seed_files(plan, plan.nodes[node], files)}

    return make


def all_plans() -> list[ClusterPlan]:
    """Return the plan of each profile, without and with auth."""
    usual: dict[str, dict[str, Any]] = {name: ARCHIVE if name == "rhel" else {} for name in profile_names()}
    flags = [(name, each | extra) for name, each in usual.items() for extra in ({}, AUTH, WAY_IN)]
    return [plan_cluster(load(profile=name, flags=each).spec) for name, each in flags]


@cache
def written() -> Mapping[str, bytes]:
    """Return the files of all profiles by path."""
    paper = type("Paper", (), {"cert_pem": b"", "key_pem": b""})()
    trust = Trust(identity="0" * 32, permit="1", ca_pem=b"", peer_ca_pem=b"-")
    found: dict[str, bytes] = {}
    for plan in all_plans():
        for node in plan.nodes:
            for file in guest_files(plan, node, trust, dict.fromkeys(NODE_ROLES, paper)):  # type: ignore[arg-type]
                found[str(file.path)] = found.get(str(file.path), b"") + file.data
    return found


def rule_of(rules: list[dict[str, Any]], name: str) -> tuple[Level, tuple[str, ...]]:
    level, units = seed_change.rule_for(rules, name)
    return Level(level), tuple(units)


def test_every_file_of_every_profile_has_an_intended_rule() -> None:
    table = json.loads(level_table())
    env_files = {str(path) for path in VARIABLES}
    assert written().keys() == EXPECTED.keys() | env_files
    assert {path: rule_of(table["files"], path) for path in EXPECTED} == EXPECTED


def test_every_variable_of_every_profile_has_an_intended_rule() -> None:
    table = json.loads(level_table())["variables"]
    for path, rules in table.items():
        names = set(re.findall(rb"^(\w+)=", written()[path], re.MULTILINE))
        for name in (each.decode() for each in names):
            expected = EXPECTED_VARIABLES.get(name, (RESTART, ()) if name.startswith("ETCD_") else None)
            assert rule_of(rules, name) == expected, name


def test_every_rule_matches_a_file() -> None:
    table = json.loads(level_table())
    matches = [rule["match"] for rule in table["files"]]
    used = {next((match for match in matches if fnmatchcase(path, match)), None) for path in EXPECTED} - {None}
    assert used == {rule.match for rule in FILES}


def test_units_of_the_table_exist() -> None:
    units = {unit for rules in (FILES, *VARIABLES.values()) for rule in rules for unit in rule.restart}
    assert {f"/etc/systemd/system/{unit}" for unit in units} <= written().keys()


def test_the_seed_contains_the_table() -> None:
    assert level_table() in written()[str(TABLE)]
    assert seed_change.FORMAT == json.loads(level_table())["format"] == 1


CHANGES = [
    ({}, {}, Level.NONE, ()),
    ({}, {"nodes": 5}, LIVE, (FIREWALL,)),
    ({"nodes": 5}, {}, LIVE, (FIREWALL,)),
    ({}, {"firewall": {"clientCidrs": ["10.0.0.0/8"]}}, LIVE, (FIREWALL,)),
    ({}, {"access": {"readers": ["backup"]}}, LIVE, (ACCESS,)),
    ({"access": {"readers": ["backup"]}}, {}, LIVE, (ACCESS,)),
    ({}, {"access": {"sshKeys": [SSH_KEY]}}, REBOOT, ()),
    ({"access": {"sshKeys": [SSH_KEY]}}, {"access": {"sshKeys": [f"{SSH_KEY} other"]}}, LIVE, ()),
    ({"access": {"sshKeys": [SSH_KEY]}}, {}, REBOOT, ()),
    ({}, {"access": {"rootShell": True}}, REBOOT, ()),
    ({}, {"auth": True}, RESTART, (PROMOTE,)),
    ({"auth": True}, {"auth": True, "nodes": 5}, LIVE, (PROMOTE, FIREWALL)),
    ({"auth": True}, {}, REBOOT, ()),
    ({}, {"join": "voter"}, LIVE, ()),
    ({}, {"etcd": {"options": {"heartbeat-interval": 150}}}, RESTART, ()),
    ({"etcd": {"options": {"heartbeat-interval": 150}}}, {}, RESTART, ()),
    ({}, {"etcd": {"tlsMinVersion": "1.3"}}, RESTART, ()),
    ({}, {"firewall": {"kind": "iptables"}}, REBOOT, ()),
    ({}, {"firewall": {"kind": "none"}}, REBOOT, ()),
    ({}, {"network": {"dns": ["192.168.20.9"]}}, REBOOT, ()),
    ({}, {"install": {"packages": ["etcd-server"]}}, REBOOT, ()),
    ({}, {"pki": {"permissions": "acl"}}, REBOOT, ()),
    ({}, {"etcd": {"clientPort": 12379}}, REBOOT, ()),
    ({}, {"etcd": {"dataDir": "/var/lib/etcd/other"}}, REBOOT, ()),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "level", "units"), CHANGES, ids=str)
def test_the_level_of_a_change_of_the_spec(
    seed_of: Callable[..., Seed],
    plan: Plan,
    old: dict[str, Any],
    new: dict[str, Any],
    level: Level,
    units: tuple[str, ...],
) -> None:
    found = compare_seeds(seed_of(plan(**old)), seed_of(plan(**new)), node="etcd1")
    assert found.level == level
    if level in (LIVE, RESTART):
        assert set(found.units) == set(units)


def test_the_level_of_new_certificates(seed_of: Callable[..., Seed], plan: Plan) -> None:
    assert compare_seeds(seed_of(plan()), seed_of(plan(), key=1), node="etcd1").level is LIVE
    assert compare_seeds(seed_of(plan()), seed_of(plan(), key=1, ca=1), node="etcd1").level is RESTART


def test_the_seed_of_another_node_or_cluster_is_refused(seed_of: Callable[..., Seed], plan: Plan) -> None:
    for other in (seed_of(plan(), node=1), seed_of(plan(), identity="1" * 32)):
        assert compare_seeds(seed_of(plan()), other, node="etcd1") == SeedChange(level=Level.REFUSED)


# --- the comparison on the node ---------------------------------------------------------------------------------

TEXT = seed_change.File(0o644, b"a")
TABLE_FILE = seed_change.File(0o644, level_table())


def level_of(old: dict[str, Any], new: dict[str, Any], *, table: seed_change.File | None = TABLE_FILE) -> str:
    files = [{**each, **({seed_change.TABLE: table} if table else {})} for each in (old, new)]
    before, after = (seed_change.Seed(each, {}) for each in files)
    return seed_change.compare(before, after).level


UNIT = "/etc/systemd/system/etcd-audit.service"


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [
        ({"/etc/x": TEXT}, {"/etc/x": TEXT}, "none"),
        ({}, {"/etc/x": TEXT}, "reboot"),
        ({"/usr/libexec/bake/x": TEXT}, {}, "reboot"),
        ({}, {"/usr/libexec/bake/x": TEXT}, "live"),
        ({"/usr/libexec/bake/x": TEXT}, {"/usr/libexec/bake/x": TEXT._replace(mode=0o755)}, "live"),
        ({UNIT: TEXT}, {UNIT: TEXT._replace(content=b"b")}, "live"),
        ({UNIT: TEXT}, {UNIT: TEXT._replace(content=b"a\n[Install]\nWantedBy=x")}, "reboot"),
        ({}, {UNIT: TEXT._replace(content=b"a\n[Install]\nWantedBy=x")}, "reboot"),
        ({"/etc/etcd/etcd.conf": TEXT}, {"/etc/etcd/etcd.conf": TEXT._replace(content=b"# b")}, "reboot"),
        ({"/etc/etcd/etcd.conf": TEXT._replace(content=b"#a\n")},
         {"/etc/etcd/etcd.conf": TEXT._replace(content=b"#b\n")}, "live"),
        ({}, {"/etc/etcd/etcd.conf": TEXT}, "reboot"),
    ],
)  # fmt: skip
def test_the_level_of_a_changed_file(old: dict[str, Any], new: dict[str, Any], level: str) -> None:
    assert level_of(old, new) == level


@pytest.mark.parametrize(
    "table",
    [b"", b"[]", b"{", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "files": [{}], "variables": {}}',
     b'{"format": 1, "files": [{"match": "*", "level": "sometimes"}], "variables": {}}'],
)  # fmt: skip
def test_with_a_table_that_cannot_be_read_the_node_reboots(table: bytes) -> None:
    new = {"/usr/libexec/bake/x": TEXT}
    assert level_of({}, new, table=seed_change.File(0o644, table)) == "reboot"
    assert level_of({}, new, table=None) == "reboot"
    assert level_of({}, new) == "live"
