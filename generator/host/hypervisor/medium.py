"""A node's medium: the volume that its seed lies in, and the drive of the VM that it is in."""

from __future__ import annotations

import hashlib
from pathlib import Path

from generator.domain import drive_xml, medium_of, swap_seed
from generator.host.hypervisor import pool
from generator.host.hypervisor.connection import Connection, Domain, Pool, asking, libvirt
from generator.host.hypervisor.ownership import Claim, find_domain, owner_of
from generator.plan import ClusterPlan, NodePlan


def seed_digest(seed: Path | bytes) -> str:
    data = seed if isinstance(seed, bytes) else seed.read_bytes()
    return hashlib.sha256(data).hexdigest()


def seed_volume(node: str, digest: str) -> str:
    return f"{node}.seed-{digest[:16]}.iso"


def replace_seed(
    connection: Connection, plan: ClusterPlan, node: NodePlan, seed: Path | bytes, *, cluster_id: str
) -> bool | None:
    """Put another ISO into the drive of a node's VM, whether it runs or not, and remove the one before.

    Returns whether anything changed; None where the cluster has no such VM. A run that was cut off is completed.
    """
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    with asking(f"look for the VM {node.domain}"):
        domain = find_domain(connection, node)
        owner = None if domain is None else owner_of(domain)
        if domain is None or owner is None or not claim.covers(owner):
            return None
        place = pool.ensure_pool(connection, claim)
    digest = seed_digest(seed)
    name = seed_volume(node.name, digest)
    with asking(f"exchange the seed of the VM {node.domain}", hint="bake seal tries it again"):
        changed = owner.seed != digest or not _is_in(domain, pool.path_of(place, name))
        if changed:
            if name not in _in_use(domain):
                pool.put(place, name, seed)
            xml = swap_seed(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), pool.path_of(place, name), digest)
            domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            _insert(domain, pool.path_of(place, name))
        return remove_old_seeds(place, node.name, domain) or changed


def _is_in(domain: Domain, path: str) -> bool:
    """Whether that is the medium, now and after the next start."""
    return {medium_of(domain.XMLDesc()), medium_of(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))} == {path}


def _insert(domain: Domain, path: str) -> None:
    """Exchange the medium of a VM that runs; nothing else of it is touched."""
    xml = domain.XMLDesc()
    if not domain.isActive() or medium_of(xml) == path:
        return
    # By force: udev in the guest locks the drive of a medium that nobody reads, and may not be there to be asked.
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    hint = "bake seal tries it again; its next start has the new one"
    with asking(f"exchange the medium of the running VM {domain.name()}", hint=hint):
        domain.updateDeviceFlags(drive_xml(xml, path), flags)


def remove_old_seeds(place: Pool, node: str, domain: Domain) -> bool:
    """A seed holds keys: one that the node's definition does not name any more goes. Returns whether one went."""
    place.refresh()
    in_use = _in_use(domain)
    old = [name for name in place.listVolumes() if name.startswith(f"{node}.seed-") and name not in in_use]
    for name in old:
        pool.remove(place, name)
    return bool(old)


def _in_use(domain: Domain) -> str:
    """Every definition of the VM, as text in which a volume's name can be looked for."""
    return str(domain.XMLDesc() + domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
