"""Two bakes at once in one output folder: one waits for the other, and what is left is the whole work of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.x509 import load_pem_x509_certificate

from generator.errors import InputError
from generator.pki import Role, parse_credential
from generator.seed.guest_files import node_credentials
from generator.seed.iso import written_files
from tests.hostile.cuts import is_whole
from tests.hostile.forked import run, run_all
from tests.hostile.report import tell

SUBNET = ("--subnet", "10.9.0.0/16")  # one for all: the CA is bound to it
NODES = {2: "10.9.1.31", 3: "10.9.2.31"}  # what the two are told: how many, and the first one's address


def race(folder: Path, number: int) -> tuple[int, list[str]]:
    """How many nodes the last at work has, and what is wrong. Every second race begins with an old folder."""
    if number % 2:
        run("-q", "--nodes", "1", *SUBNET, work=folder)
    bakes = [("--yes", "--nodes", str(nodes), *SUBNET, "--first-ip", first) for nodes, first in NODES.items()]
    ends = run_all(*bakes, work=folder)
    wrong = [f"exit code {end.code}: {end.said}" for end in ends if end.code]
    cluster = folder / "out/etcd"
    names = sorted(path.name for path in (folder / "out").iterdir())
    if names != ["etcd"] or not is_whole(cluster):
        return 0, [*wrong, f"not one whole folder: {names}"]
    manifest = json.loads((cluster / "manifest.json").read_text())
    winner = sum(name.endswith("/seed.iso") for name in manifest["files"])
    if winner not in NODES or NODES[winner] not in (cluster / "cluster.yaml").read_text():
        wrong.append(f"{winner} nodes, but another's cluster.yaml")
    return winner, [*wrong, *_foreign(cluster)]


def _foreign(cluster: Path) -> Iterator[str]:
    """Certificates that another CA issued, and keys that are another certificate's."""
    pairs = {"the operator's": tuple((cluster / f"pki/etcd-client.{kind}").read_bytes() for kind in ("pem", "key"))}
    for user_data in cluster.glob("*/user-data"):
        files = written_files(user_data.read_bytes(), where=str(user_data))
        pairs |= {f"{user_data.parent.name}'s {role}": pair for role, pair in node_credentials(files).items()}
    authority, peers = (
        load_pem_x509_certificate((cluster / f"pki/{ca}.pem").read_bytes()) for ca in (Role.CA, Role.PEER_CA)
    )
    for owner, (pem, key) in pairs.items():
        try:
            certificate = parse_credential(pem, key, where=(owner, owner)).certificate
            certificate.verify_directly_issued_by(peers if owner.endswith(Role.PEER) else authority)
        except (InputError, ValueError, InvalidSignature) as error:
            yield f"{owner}: {error!r}"


def measure(count: int, scratch: Path) -> dict[str, Any]:
    failures: list[str] = []
    winners = dict.fromkeys((*NODES, 0), 0)
    for number in range(count):
        folder = scratch / f"race-{number}"
        folder.mkdir()
        winner, wrong = race(folder, number)
        winners[winner] += 1
        failures += [f"race {number}: {text}" for text in wrong]
    tell(f"races: last at work, by number of nodes: {winners}")
    return {"trials": count, "failures": failures, "figures": {"last_at_work": {str(n): k for n, k in winners.items()}}}
