"""The privileges of etcd's account and of a reader on a booted node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.nspawn_lab import OUR_UNITS, REPORT, UNTIL_QUIET, NspawnLab, strict_units

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODE = "etcd1"
# A library that records which account has loaded it: root writes to /run, and etcd to /var/lib/etcd.
PRELOADED = """
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    FILE *file = fopen(geteuid() ? "/var/lib/etcd/loaded-by-etcd" : "/run/loaded-by-root", "w");
    if (file) fclose(file);
}
"""
AS_ETCD = "setpriv --reuid etcd --regid etcd --clear-groups"


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    """A cluster of one node. Debian's user `games` may read the client's key. The user `nosuchuser` does not exist."""
    work = tmp_path_factory.mktemp("privilege")
    readers = (("access", "readers"), ["games", "nosuchuser"])
    spec = load(flags={"--nodes": (("nodes",), 1), "--readers": readers}).spec
    baked = bake(spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        strict_units(lab, NODE)
        lab.start(NODE)
        lab.wait_for("settled", NODE, timeout=120)
        yield lab


@pytest.fixture
def library(lab: NspawnLab, tool: Callable[[str], str]) -> str:
    """Return the path of a library that etcd's account has created on the node."""
    compiled = lab.work / NODE / "medium" / "preloaded.so"
    command = [tool("gcc"), "-shared", "-fPIC", "-x", "c", "-", "-o", str(compiled)]
    subprocess.run(command, input=PRELOADED, text=True, check=True)
    lab.shell(NODE, f"{AS_ETCD} cp /run/bake/seed/preloaded.so /var/lib/etcd/")
    return "/var/lib/etcd/preloaded.so"


def loaded(lab: NspawnLab) -> list[str]:
    return lab.shell(NODE, "ls /run /var/lib/etcd | grep loaded-by", check=False).stdout.split()


def test_the_library_tells_whose_program_has_loaded_it(lab: NspawnLab, library: str) -> None:
    lab.shell(NODE, f"LD_PRELOAD={library} /bin/true; {AS_ETCD} env LD_PRELOAD={library} /bin/true")
    found = loaded(lab)
    lab.shell(NODE, "rm /run/loaded-by-root /var/lib/etcd/loaded-by-etcd")
    assert found == ["loaded-by-root", "loaded-by-etcd"]


def test_what_etcds_account_writes_reaches_no_command_of_roots(lab: NspawnLab, library: str) -> None:
    lab.shell(NODE, f"{AS_ETCD} sh -c 'echo LD_PRELOAD={library} >>/run/etcd/join.env'")
    lab.shell(NODE, "systemctl restart etcd")
    lab.shell(NODE, "systemctl start forget-seed")
    lab.shell(NODE, REPORT)
    assert loaded(lab) == []


def test_root_does_not_open_what_etcds_account_puts_in_place_of_its_file(lab: NspawnLab) -> None:
    """If systemd opened this file, it would wait forever for a pipe, and read root's files through a link."""
    lab.shell(NODE, f"{AS_ETCD} sh -c 'rm -f /run/etcd/join.env; mkfifo /run/etcd/join.env'")
    lab.shell(NODE, "timeout 180 systemctl restart etcd; rm /run/etcd/join.env")
    assert lab.shell(NODE, "systemctl is-active etcd").stdout == "active\n"


FOLDER = ["user::rwx", "user:games:--x", "user:etcd:--x", "group::---", "mask::--x", "other::---"]  # sorted by uid


def test_etcds_next_start_heals_the_folder_of_keys(lab: NspawnLab) -> None:
    """chmod changes the ACL's mask, so the reader loses its access."""
    acl = "getfacl -cp /etc/etcd/pki"
    before = lab.shell(NODE, acl).stdout.split()
    lab.shell(NODE, f"{UNTIL_QUIET}; chmod 0700 /etc/etcd/pki")  # etcd-promote may still read its keys
    assert lab.shell(NODE, f"{AS_ETCD} cat /etc/etcd/pki/etcd-server.key", check=False).returncode == 1

    lab.shell(NODE, "systemctl restart etcd")

    assert before == lab.shell(NODE, acl).stdout.split() == FOLDER
    assert "PRIVATE" in lab.shell(NODE, f"{AS_ETCD} cat /etc/etcd/pki/etcd-server.key").stdout


def test_a_reader_asks_etcd_with_the_clients_key_and_has_no_other(lab: NspawnLab) -> None:
    as_games = "setpriv --reuid games --regid games --clear-groups"
    options = "--cacert etcd-ca.pem --cert etcd-client.pem --key etcd-client.key"
    ask = f"cd /etc/etcd/pki && {as_games} etcdctl --endpoints {lab.plan.nodes[0].client_url} {options} endpoint health"
    assert "is healthy" in lab.shell(NODE, f"{ask} 2>&1").stdout
    assert "nosuchuser cannot read" in lab.console(NODE)
    for role in ("server", "peer"):
        assert lab.shell(NODE, f"{as_games} cat /etc/etcd/pki/etcd-{role}.key", check=False).stdout == ""


def test_no_unit_was_denied_anything(lab: NspawnLab) -> None:
    """A denied system call would have killed the unit (`strict_units`)."""
    units = " ".join(f"-u {unit}" for unit in OUR_UNITS)
    words = "denied|not permitted|read-only file system|seccomp|SIGSYS|status=31|core-dump"
    assert lab.shell(NODE, f"journalctl --no-pager {units} | grep -iE '{words}'", check=False).stdout == ""
    failed = lab.shell(NODE, "systemctl list-units --failed --no-legend --plain").stdout
    assert failed == ""
