"""Preview a bake: what the seeds that it would write cost the running nodes. Writes nothing."""

from __future__ import annotations

from datetime import datetime

from generator import pki
from generator.level import Level
from generator.operations.observing import load_history
from generator.pki import NODE_ROLES, Role
from generator.plan import ClusterPlan
from generator.seed import guest_files, iso
from generator.seed.guest_files import Trust
from generator.seed.history import SeedHistory
from generator.seed.seed_level import SEED_FILES, compare_seeds, instance_id
from generator.store.existing_keys import load_keyring
from generator.store.folder import Store

_NEW = "new"  # stands for the id of a seed with a certificate that is not issued yet


def preview(plan: ClusterPlan, store: Store, *, now: datetime, passphrase: bytes | None) -> SeedHistory:
    """Return the history of seeds as it would be after a bake. Raises InputError as `bake` does."""
    found = load_keyring(store, plan, now=now, passphrase=passphrase)
    trust = Trust(
        identity=found.identity or "", permit=found.permit or "",
        ca_pem=found.authorities.trusted(Role.CA) or b"", peer_ca_pem=found.authorities.trusted(Role.PEER_CA),
    )  # fmt: skip
    missing = pki.missing_certificates(plan, found.authorities.issuers, found.planned(plan), now=now)
    renewed = {one.owner for one in missing}
    history = load_history(store)
    for node, kept in zip(plan.nodes, found.nodes, strict=True):
        old = {name: data for name in SEED_FILES if (data := store.read(f"{node.name}/{name}")) is not None}
        if len(old) != len(SEED_FILES) or not kept.keys() >= set(NODE_ROLES):
            continue  # a new node
        files = iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, kept))
        new = {str(file.path): file.data for file in files}
        history = history.extended(node.name, instance_id(old), Level.NONE)
        if instance_id(new) != instance_id(old):
            level = compare_seeds(old, new, node=node.name).level
            history = history.extended(node.name, instance_id(new), level)
        if node.name in renewed or "shared" in renewed:
            history = history.extended(node.name, _NEW, Level.LIVE)
    return history.only(frozenset(node.name for node in plan.nodes))
