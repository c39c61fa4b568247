"""`bake certs`: list a cluster's certificates, and say how to renew them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from generator import pki
from generator.config.pki import Certificates
from generator.errors import InputError
from generator.layout import OPERATOR, pem_path
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.pki import Facts, Role
from generator.plan import ClusterPlan
from generator.seed import iso
from generator.store.cas import load_phase, non_issuing_files
from generator.store.client_files import client_certificates
from generator.store.existing_keys import required_pems


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One certificate.

    `owner`: the name of a node, "operator", "cluster", "user NAME" or "client NAME". `days_left`: days until the
    certificate expires, negative for an expired certificate. `days`: how many days it is valid in total. `is_near`:
    whether it expires soon (see `pki.is_near_expiry`).
    """

    owner: str
    role: Role
    facts: Facts
    days_left: int
    days: int
    is_near: bool


def entries(cluster: Cluster, *, now: datetime) -> tuple[Entry, ...]:
    """Return every certificate in the cluster's folder."""
    return tuple(_entry(*found, now) for found in _certificates(cluster))


def _certificates(cluster: Cluster) -> Iterator[tuple[str, Role, bytes | None, str]]:
    """Yield the owner, role, PEM text and file name of each certificate."""
    store, plan = cluster.store, cluster.plan
    files = [("cluster", role, str(role)) for role in pki.authority_roles(plan.spec.pki)]
    files += [(f"cluster, {which}", role, stem) for which, role, stem in non_issuing_files(store, plan)]
    files += [(OPERATOR, Role.CLIENT, str(Role.CLIENT))]
    files += [(f"user {name}", Role.CLIENT, pki.user_stem(name)) for name in plan.spec.auth.common_names]
    for owner, role, stem in files:
        yield owner, role, store.read(pem_path(stem)), str(store.folder / pem_path(stem))
    for name, pem, where in client_certificates(store):
        yield f"client {name}", Role.CLIENT, pem, where
    for node in plan.nodes:
        for role, (pem, _) in required_pems(store, node.name, command(store, "")).items():
            yield node.name, role, pem, str(store.folder / node.name / iso.USER_DATA)


def _entry(owner: str, role: Role, pem: bytes | None, where: str, now: datetime) -> Entry:
    try:
        facts = pki.describe(pem or b"")
    except ValueError:
        raise InputError.one(where, "is not a PEM certificate", "restore the file") from None
    days = facts.not_after - facts.not_before
    return Entry(
        owner=owner, role=role, facts=facts, days_left=(facts.not_after - now).days, days=days.days,
        is_near=pki.is_near_expiry(facts.not_before, facts.not_after, now),
    )  # fmt: skip


class Client(NamedTuple):
    """A client certificate: its owner (see `pki.PlannedCertificate`) and the path of its file."""

    owner: str
    path: PurePosixPath


def renewable_clients(plan: ClusterPlan) -> dict[str, Client]:
    """Return the clients whose certificates `bake certs rotate NAME` can renew, by their NAME."""
    stems = {f"user:{name}": pki.user_stem(name) for name in plan.spec.auth.common_names}
    found = {name: Client(stem, pem_path(stem)) for name, stem in stems.items()}
    if plan.spec.pki.certificates is Certificates.SHARED:  # the operator has no separate certificate
        return found
    return {OPERATOR: Client(OPERATOR, pem_path(str(Role.CLIENT))), **found}


def renewal(cluster: Cluster, expiring: Iterable[Entry]) -> str:
    """Return the commands that renew the given certificates."""
    owners = list(dict.fromkeys(entry.owner.replace("user ", "user:") for entry in expiring))
    clients = [owner for owner in owners if owner.startswith("client ")]
    others = " ".join(owner for owner in owners if owner not in clients)
    names = "--ca" if any(owner.startswith("cluster") for owner in owners) else others
    words = [f"certs rotate {names}"] * bool(names) + [one.replace("client ", "client add ") for one in clients]
    return "; ".join(command(cluster.store, each) for each in words)


def refuse_during_rotation(cluster: Cluster) -> None:
    """Raise InputError during a CA change, because a renewal without --ca would make nodes skip a phase."""
    if phase := load_phase(cluster.store):
        hint = f"first complete the CA change with {command(cluster.store, 'certs rotate --ca')}"
        raise InputError.one("this cluster", f"a CA change is in progress (phase {phase})", hint)
