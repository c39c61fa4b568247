"""The sandbox of each unit, rated by systemd-analyze from 0 (closed) to 10 (open)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from generator.config.spec import FirewallKind
from generator.pki import create_authority, issue_nodes
from generator.plan import ClusterPlan
from generator.seed.guest_files import Trust, guest_files
from generator.seed.guest_paths import LIBEXEC

LIMIT = 1.5
NAMES = (
    "etcd", "etcd-promote", "etcd-firewall", "etcd-audit", "etcd-report", "etcd-restart", "forget-seed",
    "apply-seed", "report-boot", "etcd-access", "etcd-data",
)  # fmt: skip
KINDS = tuple(kind for kind in FirewallKind if kind is not FirewallKind.NONE)


@pytest.fixture(params=KINDS)
def node(
    request: pytest.FixtureRequest, plan: Callable[..., ClusterPlan], now: datetime, tmp_path: Path
) -> Path:
    """A folder with all files of a node."""
    made = plan(firewall={"kind": str(request.param)}, auth=request.param is FirewallKind.UFW,
                access={"readers": ["backup"]})
    authority = create_authority(made, now=now)
    credentials = issue_nodes(made, authority, now=now)
    trust = Trust(identity="0" * 32, ca_pem=authority.cert_pem)
    for file in guest_files(made, made.nodes[0], trust, next(iter(credentials))):
        path = tmp_path / str(file.path).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    return tmp_path


def services(node: Path) -> list[Path]:
    return sorted((node / "etc/systemd/system").glob("*.service"))


def exposure(analyze: str, unit: Path) -> float:
    command = [analyze, "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "", "systemd does not know a directive"
    return float(done.stdout.splitlines()[-1].partition("service: ")[2].split()[0])


def test_every_unit_has_a_sandbox(node: Path, tool: Callable[[str], str]) -> None:
    found = {unit.name: exposure(tool("systemd-analyze"), unit) for unit in services(node)}
    print(found)
    assert {f"{name}.service" for name in NAMES} <= found.keys()
    assert {name: value for name, value in found.items() if value > LIMIT} == {}


def test_every_script_of_bake_that_a_unit_starts_is_on_the_node(node: Path) -> None:
    text = "".join(unit.read_text() for unit in services(node))
    commands = "".join(re.findall(r"^Exec\w+=.*\n", text, re.MULTILINE))
    started = set(re.findall(r"/\w+/libexec/bake/[\w-]+", commands))
    assert {f"{LIBEXEC}/etcd-join", f"{LIBEXEC}/etcd-start", f"{LIBEXEC}/etcd-firewall"} <= started
    assert {path for path in started if not (node / path.lstrip("/")).exists()} == set()


def test_no_unit_reads_a_file_that_etcds_account_can_write(node: Path) -> None:
    """systemd reads env files as root, and passes their variables also to commands that run as root (prefix `+`)."""
    roots = ("/etc/etcd/etcd.conf", "/etc/etcd/bake.env", "/run/bake-audit/report.json")
    read = {
        path
        for unit in services(node)
        for path in re.findall(r"^(?:EnvironmentFile=-?|StandardInput=file:)(.*)", unit.read_text(), re.MULTILINE)
    }
    assert {*roots[:2]} <= read <= {*roots}


def test_commands_that_run_as_root_name_no_file_that_etcds_account_can_write(node: Path) -> None:
    for unit in services(node):
        is_etcds = "\nUser=etcd\n" in unit.read_text()
        for prefixes, command in re.findall(r"^Exec\w+=([-@:+!|]*)(.*)", unit.read_text(), re.MULTILINE):
            if "+" in prefixes or not is_etcds:
                assert not re.search(r"/(run|var/lib)/etcd\b", command), unit


def test_units_that_etcd_starts_wait_for_the_end_of_the_first_boot(node: Path) -> None:
    """A package's postinst starts etcd during the first boot, before the firewall is installed or running."""
    (etcd,) = (unit for unit in services(node) if unit.name == "etcd.service")
    before = re.findall(r"^After=(etcd-firewall.service) (etcd-access.service)$", etcd.read_text(), re.MULTILINE)
    for name in ("etcd.service", *before[0]):
        assert "\nConditionPathExists=/var/lib/bake/configured\n" in etcd.with_name(name).read_text(), name


def test_systemd_analyze_detects_an_open_unit(tmp_path: Path, tool: Callable[[str], str]) -> None:
    (tmp_path / "open.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(tool("systemd-analyze"), tmp_path / "open.service") > 9
