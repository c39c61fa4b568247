"""A booted node whose etcd account was taken over: nothing that root runs there does what that account wrote down."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.bake import bake
from generator.host.store import Store
from generator.profile import load
from tests.assembly.nspawn_lab import NspawnLab, strict_units

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODE = "etcd1"
# Says whose program has loaded it: root's can write to /run, etcd's cannot.
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
    """A cluster of one node."""
    work = tmp_path_factory.mktemp("privilege")
    spec = load(flags={"--nodes": (("nodes",), 1)}).spec
    baked = bake(spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        strict_units(lab, NODE)
        lab.start(NODE)
        lab.wait_for("settled", NODE, timeout=120)
        yield lab


@pytest.fixture
def library(lab: NspawnLab, tool: Callable[[str], str]) -> str:
    """The path, on the node, of a library that etcd's account has put there."""
    compiled = lab.work / NODE / "medium" / "preloaded.so"
    command = [tool("gcc"), "-shared", "-fPIC", "-x", "c", "-", "-o", str(compiled)]
    subprocess.run(command, input=PRELOADED, text=True, check=True)
    lab.shell(NODE, f"{AS_ETCD} cp /run/bake/seed/preloaded.so /var/lib/etcd/")
    return "/var/lib/etcd/preloaded.so"


def loaded(lab: NspawnLab) -> list[str]:
    return lab.shell(NODE, "ls /run /var/lib/etcd | grep loaded-by", check=False).stdout.split()


def test_the_library_tells_whose_program_has_loaded_it(lab: NspawnLab, library: str) -> None:
    lab.shell(NODE, f"LD_PRELOAD={library} true; LD_PRELOAD={library} {AS_ETCD} true; {AS_ETCD} env LD_PRELOAD={library} true")
    found = loaded(lab)
    lab.shell(NODE, "rm /run/loaded-by-root /var/lib/etcd/loaded-by-etcd")
    assert found == ["loaded-by-root", "loaded-by-etcd"]


def test_what_etcds_account_writes_reaches_no_command_of_roots(lab: NspawnLab, library: str) -> None:
    lab.shell(NODE, f"{AS_ETCD} sh -c 'echo LD_PRELOAD={library} >>/run/etcd/join.env'")
    lab.shell(NODE, "systemctl restart etcd")
    lab.shell(NODE, "systemctl start etcd-report forget-seed")
    assert loaded(lab) == []


def test_root_does_not_open_what_etcds_account_puts_in_place_of_its_file(lab: NspawnLab) -> None:
    """A pipe that nobody writes to would hold the first process of the machine for ever."""
    lab.shell(NODE, f"{AS_ETCD} sh -c 'rm -f /run/etcd/join.env; ln -s /etc/etcd/secret.env /run/etcd/join.env'")
    lab.shell(NODE, "umask 077; echo ETCD_LOG_LEVEL=debug >/etc/etcd/secret.env; systemctl restart etcd")
    environment = lab.shell(NODE, "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID etcd)/environ").stdout
    lab.shell(NODE, "rm /etc/etcd/secret.env /run/etcd/join.env")
    assert "ETCD_NAME=etcd1" in environment
    assert "ETCD_LOG_LEVEL" not in environment
