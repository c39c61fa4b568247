"""Preview a bake: what the seeds that it would write cost the running nodes. Writes nothing."""

from __future__ import annotations

from datetime import datetime

from generator import pki
from generator.layout import SHARED
from generator.level import Level
from generator.operations.hints import command
from generator.pki import NODE_ROLES, Role
from generator.plan import ClusterPlan
from generator.seed import guest_files, iso
from generator.seed.guest_files import Trust
from generator.seed.history import SeedHistory
from generator.store.existing_keys import load_keyring
from generator.store.folder import Store
from generator.store.seed_history import kept_seed, load_history, with_seed

_NOT_ISSUED = "not issued yet"  # stands for the id of a seed with a new certificate


def preview(plan: ClusterPlan, store: Store, *, now: datetime, passphrase: bytes | None) -> SeedHistory:
    """Return the history of seeds as it would be after a bake. Raises InputError as `bake` does."""
    found = load_keyring(store, plan, now=now, passphrase=passphrase, again=command(store, ""))
    trust = Trust(
        identity=found.identity or "", permit=found.permit or "",
        ca_pem=found.authorities.trusted(Role.CA) or b"", peer_ca_pem=found.authorities.trusted(Role.PEER_CA),
    )  # fmt: skip
    missing = pki.missing_certificates(plan, found.authorities.issuers, found.planned(plan), now=now)
    renewed = {one.owner for one in missing}
    history = load_history(store)
    for node, kept in zip(plan.nodes, found.nodes, strict=True):
        old = kept_seed(store, node.name)
        if not old or not kept.keys() >= set(NODE_ROLES):
            continue  # a new node
        files = iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, kept))
        history = with_seed(history, node.name, old, {str(file.path): file.data for file in files})
        if {node.name, SHARED} & renewed:
            history = history.extended(node.name, _NOT_ISSUED, Level.LIVE)
    return history.only(frozenset(node.name for node in plan.nodes))
