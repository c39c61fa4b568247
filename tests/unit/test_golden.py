"""The files that each profile bakes, stored so that a diff shows every change of them.

`pytest --golden tests/unit/test_golden.py` writes the files again. The stored files contain no keys and certificates,
and only the names of unchanged scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

import pytest

from generator.config.load import load, profile_names
from generator.layout import SEED_ISO
from generator.operations import cluster_files
from generator.pki import NODE_ROLES
from generator.plan import plan_cluster
from generator.seed.guest_files import Trust

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
ARCHIVE = {
    "--archive": (("install", "archive"), "etcd.tar.gz"),
    "--archive-sha256": (("install", "sha256"), "0" * 64),
}
GUEST = ROOT / "generator/seed/guest"
SHIPPED = {
    f"{path.relative_to(GUEST)}": path.read_text()
    for path in GUEST.rglob("*")
    if path.is_file() and path.suffix != ".j2" and "cache" not in str(path.relative_to(GUEST))
}
# No profile lets a person in.
WAYS_IN = {"etc/ssh/sshd_config.d/50-bake.conf", "etc/systemd/system/root-shell.service"}


@dataclass(frozen=True)
class Paper:
    """A fake credential with placeholders for the certificate and the key."""

    cert_pem: bytes = b"-----BEGIN CERTIFICATE-----\n(cut)\n-----END CERTIFICATE-----\n"
    key_pem: bytes = b"-----BEGIN PRIVATE KEY-----\n(cut)\n-----END PRIVATE KEY-----\n"


def baked(profile: str) -> Iterator[tuple[Path, str]]:
    """Yield the text files of a cluster with three nodes."""
    plan = plan_cluster(load(profile=profile, flags=ARCHIVE if profile == "rhel" else {}).spec)
    paper, credentials = Paper(), dict.fromkeys(NODE_ROLES, Paper())
    peer_ca = paper.cert_pem if plan.spec.pki.peer_ca.separate else None
    trust = Trust(identity="0" * 32, permit="0" * 64, ca_pem=paper.cert_pem, peer_ca_pem=peer_ca)
    for file in cluster_files.operator_files(plan, trust, {"etcd-client": paper}):  # type: ignore[dict-item]
        if file.path.parent.name != "pki":
            yield Path(file.path), file.data.decode()
    for node in plan.nodes[:2]:  # the first node, and a node that joins
        for file in cluster_files.node_files(plan, node, trust, credentials, (), sealed=False):  # type: ignore[arg-type]
            if file.path.name != SEED_ISO.name:
                yield Path(file.path), file.data.decode()


def readable(text: str) -> str:
    for path, content in SHIPPED.items():
        for margin in ("    ", "  "):
            text = text.replace(indent(content, margin), f"{margin}(generator/seed/guest/{path})\n")
    return re.sub(r"(instance-id: \S+-)[0-9a-f]{16}\n", r"\1(digest)\n", text)


@pytest.mark.parametrize("profile", profile_names())
def test_a_profile_bakes_what_is_on_file(profile: str, request: pytest.FixtureRequest) -> None:
    folder = GOLDEN / profile
    made = {path: readable(text) for path, text in baked(profile)}
    if request.config.getoption("--golden"):
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    on_file = {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert set(on_file) == set(made)
    for path, text in made.items():
        assert text == on_file[path], path


def test_no_profile_that_is_gone_is_on_file() -> None:
    assert {path.name for path in GOLDEN.iterdir()} - {"domain", "export", "table"} == set(profile_names())


def test_every_shipped_file_stands_by_its_name_alone() -> None:
    every = "".join(readable(text) for profile in profile_names() for _, text in baked(profile))
    assert "#!/bin/sh" not in every
    assert set(re.findall(r"\(generator/seed/guest/(\S+)\)", every)) == set(SHIPPED) - WAYS_IN
