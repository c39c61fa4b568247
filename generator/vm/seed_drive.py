"""Insert, replace and remove the seed ISO in the CD drive of a node's VM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from generator.vm import storage_pool
from generator.vm.connection import Connection, Domain, Pool, asking, libvirt
from generator.vm.domain_xml import Owner, drive_xml, iso_in_drive, swap_seed


def seed_digest(seed: Path) -> str:
    return hashlib.sha256(seed.read_bytes()).hexdigest()


def seed_volume(node: str, digest: str) -> str:
    return f"{node}.seed-{digest[:16]}.iso"


@dataclass(frozen=True, kw_only=True)
class SeedDrive:
    """The CD drive of a node's VM. `owner`: the VM's tag. `remedy`: the command that an error's hint names."""

    connection: Connection
    pool: Pool
    node: str
    domain: Domain
    owner: Owner
    remedy: str

    def insert(self, seed: Path, *, keep_empty: bool = False, again: bool = False) -> bool:
        """Put the ISO into the drive of a running or stopped VM, and delete the old ISO. Return whether it changed.

        If a call is interrupted, the next call completes it. `keep_empty`: do not fill an empty drive, because its node
        needs no seed. `again`: eject an ISO that is already in a running VM's drive, and insert the ISO again. A guest
        reads an ISO only when the ISO is inserted.
        """
        domain, digest = self.domain, seed_digest(seed)
        name = seed_volume(self.node, digest)
        path = "" if keep_empty and is_empty(domain) else storage_pool.path_of(self.pool, name)
        changed = self.owner.seed != digest or not _is_in(domain, path)
        if changed:
            if path and name not in in_use(domain):
                storage_pool.put(self.pool, name, seed)
            domain = self._define(path, digest)
        elif again:
            _insert(domain, "", self.remedy)
            _insert(domain, path, self.remedy)
        return remove_old_seeds(self.pool, self.node, domain) or changed

    def empty(self) -> bool:
        """Empty the drive, now and for the VM's next start, and delete the ISO. Return whether anything changed.

        Keep an ISO that a running VM gets only at the next start, because the node has not read the ISO yet.
        """
        domain = self.domain
        next_iso = iso_in_drive(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        changed = not is_empty(domain) and next_iso in ("", iso_in_drive(domain.XMLDesc()))
        if changed:
            domain = self._define("", self.owner.seed)
        return remove_old_seeds(self.pool, self.node, domain) or changed

    def _define(self, path: str, digest: str) -> Domain:
        """Put the ISO at `path` into the drive, now and for the next start. An empty path means an empty drive.

        `digest` is the ISO's digest, which goes into the VM's tag.
        """
        xml = swap_seed(self.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), path, digest)
        domain = self.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        _insert(domain, path, self.remedy)
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
