"""Insert, replace and remove the seed ISO in the CD drive of a node's VM."""

from __future__ import annotations

import hashlib
from pathlib import Path

from generator.plan import ClusterPlan, NodePlan
from generator.vm import storage_pool
from generator.vm.connection import Connection, Domain, Pool, asking, libvirt
from generator.vm.domain_xml import Owner, drive_xml, iso_in_drive, swap_seed
from generator.vm.ownership import Claim, find_domain, owner_of


def seed_digest(seed: Path | bytes) -> str:
    data = seed if isinstance(seed, bytes) else seed.read_bytes()
    return hashlib.sha256(data).hexdigest()


def seed_volume(node: str, digest: str) -> str:
    return f"{node}.seed-{digest[:16]}.iso"


def replace_seed(
    connection: Connection, plan: ClusterPlan, node: NodePlan, seed: Path | bytes, *, cluster_id: str
) -> bool | None:
    """Replace the ISO in the drive of a node's VM. Do not fill an empty drive, because its node needs no seed."""
    return insert_seed(connection, plan, node, seed, cluster_id=cluster_id, keep_empty=True, remedy="bake seal")


def insert_seed(
    connection: Connection,
    plan: ClusterPlan,
    node: NodePlan,
    seed: Path | bytes,
    *,
    cluster_id: str,
    remedy: str,
    keep_empty: bool = False,
    again: bool = False,
) -> bool | None:
    """Put the ISO into the drive of a node's VM, running or stopped, and delete the old ISO.

    Return whether anything changed, or None if libvirt has no VM of the node. If a call is interrupted, the next call
    completes it. `again`: eject an ISO that is already in a running VM's drive, and insert the ISO again. A guest reads
    an ISO only when the ISO is inserted. `remedy`: the command that an error's hint names.
    """
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    digest = seed_digest(seed)
    name = seed_volume(node.name, digest)
    with asking(f"replace the seed of the VM {node.domain}", hint=f"try again: {remedy}"):
        found = _own(connection, node, claim)
        if found is None:
            return None
        domain, owner = found
        pool = storage_pool.ensure_pool(connection, claim)
        path = "" if keep_empty and is_empty(domain) else storage_pool.path_of(pool, name)
        changed = owner.seed != digest or not _is_in(domain, path)
        if changed:
            if path and name not in in_use(domain):
                storage_pool.put(pool, name, seed)
            domain = _define(connection, domain, path, digest, remedy)
        elif again:
            _insert(domain, "", remedy)
            _insert(domain, path, remedy)
        return remove_old_seeds(pool, node.name, domain) or changed


def remove_seed(connection: Connection, plan: ClusterPlan, node: NodePlan, *, cluster_id: str) -> bool | None:
    """Empty the drive of a node's VM, now and for its next start, and delete the ISO.

    Return whether anything changed, or None if libvirt has no VM of the node. Keep an ISO that a running VM gets only
    at the next start, because the node has not read the ISO yet.
    """
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    with asking(f"empty the drive of the VM {node.domain}"):
        found = _own(connection, node, claim)
        if found is None:
            return None
        domain, owner = found
        pool = storage_pool.ensure_pool(connection, claim)
        next_iso = iso_in_drive(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        changed = not is_empty(domain) and next_iso in ("", iso_in_drive(domain.XMLDesc()))
        if changed:
            domain = _define(connection, domain, "", owner.seed)
        return remove_old_seeds(pool, node.name, domain) or changed


def _own(connection: Connection, node: NodePlan, claim: Claim) -> tuple[Domain, Owner] | None:
    domain = find_domain(connection, node)
    owner = None if domain is None else owner_of(domain)
    return (domain, owner) if domain is not None and owner is not None and claim.covers(owner) else None


def _define(connection: Connection, domain: Domain, path: str, digest: str, remedy: str = "bake seal") -> Domain:
    """Put the ISO at `path` into a VM's drive, now and for the next start. An empty path means an empty drive.

    `digest` is the ISO's digest, which goes into the VM's tag.
    """
    xml = swap_seed(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), path, digest)
    domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    _insert(domain, path, remedy)
    return domain


def is_empty(domain: Domain) -> bool:
    """Return whether a VM's drive is empty, now and after its next start."""
    return _is_in(domain, "")


def _is_in(domain: Domain, path: str) -> bool:
    return {iso_in_drive(domain.XMLDesc()), iso_in_drive(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))} == {path}


def _insert(domain: Domain, path: str, remedy: str) -> None:
    """Replace the ISO in the drive of a VM if the VM runs."""
    xml = domain.XMLDesc()
    if not domain.isActive() or iso_in_drive(xml) == path:
        return
    # Force the change of the ISO, because the guest's udev locks the drive even if no ISO is mounted.
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    hint = f"try again: {remedy}; the VM gets the new ISO at the next start anyway"
    with asking(f"replace the ISO in the drive of the running VM {domain.name()}", hint=hint):
        domain.updateDeviceFlags(drive_xml(xml, path), flags)


def remove_old_seeds(pool: Pool, node: str, domain: Domain) -> bool:
    """Delete a node's unused ISOs, because they contain private keys. Return whether an ISO was deleted."""
    pool.refresh()
    used = in_use(domain)
    old = [name for name in pool.listVolumes() if name.startswith(f"{node}.seed-") and name not in used]
    for name in old:
        storage_pool.remove(pool, name)
    return bool(old)


def in_use(domain: Domain) -> str:
    """Return the VM's live and stored definitions as one text, which contains the names of all used volumes."""
    return str(domain.XMLDesc() + domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
