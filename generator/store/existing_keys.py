"""Read and check the certificates and keys in a cluster's folder, before anything is written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from generator import pki
from generator.config.load import load_kept
from generator.config.pki import Certificates, PeerName
from generator.config.spec import ClusterSpec
from generator.errors import InputError
from generator.layout import IDENTITY, PERMIT_COPY, SPEC, pem_path
from generator.pki import Credential, Issuer, NodePki, Role
from generator.pki.ca_phases import Authorities
from generator.plan import ClusterPlan
from generator.seed import guest_files, iso
from generator.store.cas import check_authorities, load_authorities, load_pair
from generator.store.folder import Store
from generator.store.permissions import check_secret

MAX_PASSPHRASE = 1024  # bytes
OPERATOR = "operator"  # an owner of certificates
RENEWED_BEFORE = timedelta(
    days=30
)  # the operator's certificate is renewed this long before its end, or in its last third


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """Existing certificates and keys; None or empty for those still to be created."""

    identity: str | None
    permit: str | None = field(default=None, repr=False)
    authorities: Authorities
    client: Credential | None
    users: Mapping[str, Credential | None]  # etcd's, each with a client certificate
    nodes: tuple[NodePki, ...]

    @property
    def newest_start(self) -> datetime | None:
        """The start of the newest certificate, without the CAs'."""
        found = (self.client, *self.users.values(), *(one for node in self.nodes for one in node.values()))
        return max((one.certificate.not_valid_before_utc for one in found if one), default=None)

    def without(self, plan: ClusterPlan, owners: Collection[str]) -> Keyring:
        """Return this without the certificates of these owners (`pki.PlannedCertificate`); a shared set is removed for all."""
        users = {name: None if pki.user_stem(name) in owners else old for name, old in self.users.items()}
        found = replace(self, users=users, client=None if OPERATOR in owners else self.client)
        renewed = [node.name in owners for node in plan.nodes]
        if any(renewed) and plan.spec.pki.certificates is Certificates.SHARED:
            return replace(found, client=None, nodes=tuple({} for _ in self.nodes))
        pairs = zip(renewed, self.nodes, strict=True)
        return replace(found, nodes=tuple({} if is_renewed else old for is_renewed, old in pairs))

    def expiring_client(self, plan: ClusterPlan, now: datetime) -> datetime | None:
        """Return when the operator's certificate ends, if that is soon and a new one would end later; else None."""
        issuer = self.authorities.issuers.get(Role.CA)
        is_shared = plan.spec.pki.certificates is Certificates.SHARED
        if self.client is None or is_shared or not isinstance(issuer, Credential):
            return None
        start, end = self.client.certificate.not_valid_before_utc, self.client.certificate.not_valid_after_utc
        is_soon = end - now < min(RENEWED_BEFORE, (end - start) / 3)
        return end if is_soon and end < issuer.certificate.not_valid_after_utc else None


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a file, like OpenSSL's `file:`. Raises InputError."""
    check_secret(path, f"--ca-passphrase-file: {path}")
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE + 2).split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise InputError.one(
            "--ca-passphrase-file",
            f"{path} cannot be read: {error.strerror}",
            "give a file with the passphrase on its first line",
        ) from None
    if not 0 < len(line) <= MAX_PASSPHRASE:
        raise InputError.one(
            "--ca-passphrase-file",
            f"the first line of {path} is not 1 to {MAX_PASSPHRASE} bytes long",
            "give a file with the passphrase on its first line",
        )
    return line


def load_identity(store: Store) -> str | None:
    """Return the cluster's unique identity; None if it was not baked yet. Raises InputError.

    It stays the same when the CA changes. A cluster of an older version without this file has its CA's digest.
    """
    raw, ca_pem = store.read(IDENTITY), store.read(pem_path(Role.CA))
    if raw is None:
        return hashlib.sha256(ca_pem).hexdigest() if ca_pem and store.manifest() else None
    if not re.fullmatch(rb"[0-9a-f]{32,64}\n", raw):
        raise InputError.one(str(store.folder / IDENTITY), "is not what bake wrote", "restore the file")
    return raw.decode().strip()


def load_permit(store: Store) -> str | None:
    """Return the bootstrap permit, a secret; None if it is not created yet. Raises InputError."""
    raw = store.read(PERMIT_COPY)
    if raw is None:
        return None
    if not re.fullmatch(rb"[0-9a-f]{64}\n", raw):
        raise InputError.one(str(store.folder / PERMIT_COPY), "is not what bake wrote", "restore the file")
    return raw.decode().strip()


def load_keyring(
    store: Store,
    plan: ClusterPlan,
    *,
    now: datetime,
    passphrase: bytes | None,
    change: Callable[[Authorities], Authorities] = lambda found: found,
) -> Keyring:
    """Return the existing certificates and keys, of an earlier bake or put into `pki/` by the user.

    `change` is applied to the CAs before they are checked, so that an expired CA can be replaced. Raises InputError.
    """
    identity = load_identity(store)
    authorities = load_authorities(store, plan, now=now, passphrase=passphrase)
    issuer = authorities.issuers.get(Role.CA)
    client = load_pair(store, Role.CLIENT)
    if client:
        _refuse_foreign(store, issuer, client)
    users = {name: load_pair(store, pki.user_stem(name)) for name in plan.spec.auth.common_names}
    nodes = tuple(_kept_node(store, node.name, issuer) for node in plan.nodes)
    changed = change(authorities)
    check_authorities(changed, store, plan, now=now)
    _refuse_lost_name(plan.spec, store)
    _refuse_unnamed(plan, nodes)
    return Keyring(
        identity=identity, permit=load_permit(store), authorities=changed, client=client, users=users, nodes=nodes
    )


def _refuse_lost_name(spec: ClusterSpec, store: Store) -> None:
    """Raise InputError if running nodes would refuse a node once it has its new peer certificate."""
    kept = load_kept(store.folder / SPEC) if store.read(SPEC) is not None else None
    if kept and kept.pki.peer_name is PeerName.REQUIRED and not _has_name(spec, pki.peer_check(kept)):
        name = " ".join(pki.peer_check(kept))
        raise InputError.one(
            "pki.peerName",
            f"the nodes require {name} in every peer certificate, but the new certificates would lack it",
            "first change only pki.peerName to stated, bake, and restart the nodes one by one; for a new cluster, use "
            "another --name",
        )


def _has_name(spec: ClusterSpec, wanted: tuple[str, str]) -> bool:
    """Return whether etcd with this check accepts the peer certificates of the spec."""
    shared = spec.pki.certificates is Certificates.SHARED
    return pki.peer_check(spec) == wanted and (shared or spec.pki.peer_name is not PeerName.NONE)


def _refuse_unnamed(plan: ClusterPlan, nodes: tuple[NodePki, ...]) -> None:
    """Refuse pki.peerName: required while certificates lack the name: the nodes would refuse each other."""
    peers = [(node.name, kept[Role.PEER]) for node, kept in zip(plan.nodes, nodes, strict=True) if Role.PEER in kept]
    without = [name for name, peer in peers if not pki.has_peer_name(peer.certificate, plan)]
    if without and plan.spec.pki.peer_name is PeerName.REQUIRED:
        raise InputError.one(
            "pki.peerName",
            f"required, but the peer certificates of {', '.join(without)} lack the peer name",
            "first bake with pki.peerName: stated, then run bake certs rotate",
        )


def _refuse_foreign(store: Store, authority: Issuer | None, issued: Credential) -> None:
    """Refuse a CA that did not issue the certificates of an earlier bake: it was replaced or lost."""
    if authority is None or not pki.is_issued_by(issued.certificate, authority.certificate):
        message = "did not issue this cluster's certificates"
        raise InputError.one(
            str(store.folder / pem_path(Role.CA)),
            message if authority else "is missing, but certificates that it issued exist",
            "restore the cluster's CA; for a new cluster, use another --name",
        )


def seed_pems(store: Store, name: str) -> dict[Role, tuple[bytes, bytes]]:
    """Return a node's certificates and keys from its seed, the only copy on this machine; empty without a seed."""
    path = PurePosixPath(name) / iso.USER_DATA
    user_data = store.read(path)
    if user_data is None:
        return {}
    return guest_files.node_credentials(iso.written_files(user_data, where=str(store.folder / path)))


def required_pems(store: Store, name: str) -> dict[Role, tuple[bytes, bytes]]:
    """Return the same for a baked node. Raises InputError if its seed is missing."""
    if pems := seed_pems(store, name):
        return pems
    raise InputError.one(str(store.folder / name / iso.USER_DATA), "is missing", "bake again")


def _kept_node(store: Store, name: str, authority: Issuer | None) -> NodePki:
    where = str(store.folder / name / iso.USER_DATA)
    kept = {role: pki.parse_credential(*pair, where=(where, where)) for role, pair in seed_pems(store, name).items()}
    if server := kept.get(Role.SERVER):
        _refuse_foreign(store, authority, server)
    return kept
