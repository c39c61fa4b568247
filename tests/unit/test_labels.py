"""The paths of a node's files match the SELinux policy of Enterprise Linux 9.

The types of the paths are from the file contexts of the targeted policy: fedora-selinux/selinux-policy, branch c9s at
73a2d29. EL 9's file_contexts.subs_dist gives units below /etc the types of units below /usr/lib.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from generator import pki
from generator.plan import ClusterPlan
from generator.seed import first_boot, guest_files
from generator.seed.guest_paths import LIBEXEC, RUNTIME_PERMIT

Plan = Callable[..., ClusterPlan]
EL9 = {
    "/etc": "etc_t",
    "/etc/systemd/system": "systemd_unit_file_t",
    "/etc/udev/rules.d": "udev_rules_t",
    "/run": "var_run_t",
    "/usr": "usr_t",
    "/usr/bin": "bin_t",
    "/usr/libexec": "bin_t",
    "/usr/local/bin": "bin_t",  # not /usr/local/libexec, where every file has the type usr_t
    "/var": "var_t",
    "/var/lib": "var_lib_t",
    "/var/lib/cloud": "cloud_var_lib_t",
}
ARCHIVE = {"method": "archive", "archive": "x.tar.gz", "sha256": "0" * 64}


def label(path: PurePosixPath | str) -> str:
    (place, *_) = (str(place) for place in (PurePosixPath(path), *PurePosixPath(path).parents) if str(place) in EL9)
    return EL9[place]


@pytest.fixture(scope="module", params=["firewalld", "nftables"])
def files(request: pytest.FixtureRequest, plan: Plan, now: Any) -> dict[str, bytes]:
    wanted = plan(firewall={"kind": request.param}, install=ARCHIVE)
    authority = pki.create_authority(wanted, now=now)
    (credentials, *_) = pki.issue_nodes(wanted, authority, now=now)
    trust = guest_files.Trust(identity="0" * 32, ca_pem=authority.cert_pem)
    guest = guest_files.guest_files(wanted, wanted.nodes[0], trust, credentials)
    return {str(file.path): file.data for file in guest}


def kind(path: str, data: bytes) -> str:
    """Return the SELinux type that fits a file's purpose."""
    if data.startswith(b"#!"):
        return "bin_t"
    if data.startswith(b"[Unit]"):
        return "systemd_unit_file_t"
    if PurePosixPath(path).parent == LIBEXEC:
        return "bin_t"  # the folder's modules and its table of levels are read, not executed
    return {".rules": "udev_rules_t"}.get(PurePosixPath(path).suffix, "etc_t")


def test_each_file_has_the_label_of_its_kind(files: dict[str, bytes]) -> None:
    assert len(files) > 20
    assert {path: label(path) for path in files} == {path: kind(path, data) for path, data in files.items()}


def commands(unit: bytes) -> Iterator[str]:
    """Return the programs of a unit: the first word of each command, and etcd with the scripts that start it."""
    yield from re.findall(r"^Exec\w+=[-+!]*(\S+)", unit.decode(), re.MULTILINE)
    for line in re.findall(r"^ExecStart=/bin/sh -euc '(\S+); exec (\S+) (\S+)'$", unit.decode(), re.MULTILINE):
        yield from line


def test_units_start_only_programs(files: dict[str, bytes]) -> None:
    started = {one for path, data in files.items() if path.endswith(".service") for one in commands(data)}
    started -= {"/bin/echo", "/bin/sh", "/bin/rm", "/bin/systemctl"}  # programs of the system
    assert {"/usr/local/bin/etcd", "/usr/libexec/bake/etcd-join", "/usr/libexec/bake/etcd-start"} <= started
    assert {label(path) for path in started} == {"bin_t"}


@pytest.mark.parametrize("method", [{}, ARCHIVE])
def test_etcd_and_its_data_have_the_right_labels(plan: Plan, method: dict[str, str]) -> None:
    wanted = plan(install=method)
    assert label(f"{wanted.binary_dir}/etcd") == "bin_t"
    assert label(wanted.spec.etcd.data_dir) == label(first_boot.HOME) == "var_lib_t"
    assert label(RUNTIME_PERMIT) == "var_run_t"


def test_labels_are_restored_for_every_written_file(plan: Plan, files: dict[str, bytes]) -> None:
    lines = [line for line in first_boot.first_boot_commands(plan()) if "restorecon" in line]
    restored = [word for word in " ".join(lines).replace(";", " ").split() if word.startswith("/")]
    assert [path for path in files if not any(PurePosixPath(path).is_relative_to(tree) for tree in restored)] == []
