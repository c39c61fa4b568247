"""Read and check the certificates and keys in a cluster's folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from generator import pki
from generator.config.load import load_kept
from generator.config.pki import Certificates, PeerName
from generator.config.spec import ClusterSpec
from generator.errors import InputError
from generator.layout import IDENTITY, OPERATOR, PERMIT_COPY, SEALED, SPEC, pem_path
from generator.pki import Credential, Issuer, NodePki, PlannedCertificate, Role
from generator.pki.ca_phases import Authorities
from generator.plan import ClusterPlan
from generator.seed import guest_files, iso
from generator.seed.guest.usr.libexec.bake.seed_change import Seed
from generator.store.cas import check_authorities, load_authorities, load_pair
from generator.store.folder import Store
from generator.store.permissions import check_secret

MAX_PASSPHRASE = 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """A cluster's existing certificates and keys. bake creates each value that is None or empty."""

    identity: str | None
    permit: str | None = field(default=None, repr=False)
    authorities: Authorities
    client: Credential | None
    users: Mapping[str, Credential | None]  # etcd users' client certificates by user name
    nodes: tuple[NodePki, ...]

    @property
    def newest_start(self) -> datetime | None:
        """The time from which all certificates except CA certificates are valid."""
        found = (self.client, *self.users.values(), *(one for node in self.nodes for one in node.values()))
        return max((one.certificate.not_valid_before_utc for one in found if one), default=None)

    def without(self, plan: ClusterPlan, owners: Collection[str]) -> Keyring:
        """Return the keyring without the certificates of `owners`.

        A certificate that all nodes share is removed if `owners` contains any node.
        """
        users = {name: None if pki.user_stem(name) in owners else old for name, old in self.users.items()}
        found = replace(self, users=users, client=None if OPERATOR in owners else self.client)
        renewed = [node.name in owners for node in plan.nodes]
        if any(renewed) and plan.spec.pki.certificates is Certificates.SHARED:
            return replace(found, client=None, nodes=tuple({} for _ in self.nodes))
        pairs = zip(renewed, self.nodes, strict=True)
        return replace(found, nodes=tuple({} if is_renewed else old for is_renewed, old in pairs))

    def planned(self, plan: ClusterPlan) -> Iterator[PlannedCertificate]:
        """Yield every certificate that the cluster needs."""
        return pki.planned_certificates(plan, self.client, self.nodes, self.users)

    def expiring_client(self, plan: ClusterPlan, now: datetime) -> datetime | None:
        """If bake must renew the operator's certificate now, return the certificate's expiry, else None."""
        issuer = self.authorities.issuers.get(Role.CA)
        is_shared = plan.spec.pki.certificates is Certificates.SHARED
        if self.client is None or is_shared or not isinstance(issuer, Credential):
            return None
        return self.client.certificate.not_valid_after_utc if expires_soon(self.client, issuer, now) else None


def expires_soon(credential: Credential, issuer: Issuer, now: datetime) -> bool:
    """Return whether bake must renew a client certificate now. A certificate that ends with its CA is not renewed."""
    start, end = credential.certificate.not_valid_before_utc, credential.certificate.not_valid_after_utc
    return pki.is_near_expiry(start, end, now) and end < issuer.certificate.not_valid_after_utc


def read_passphrase(path: Path, flag: str = "--ca-passphrase-file") -> bytes:
    """Return the first line of a file as the passphrase, like OpenSSL's option `-passin file:`. Raises InputError."""
    hint = "give a file with the passphrase on its first line"
    check_secret(path, f"{flag}: {path}")
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE + 2).split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise InputError.one(flag, f"{path} cannot be read: {error.strerror}", hint) from None
    if not 0 < len(line) <= MAX_PASSPHRASE:
        raise InputError.one(flag, f"the first line of {path} is not 1 to {MAX_PASSPHRASE} bytes long", hint)
    return line


def load_identity(store: Store) -> str | None:
    """Return the cluster's unique identity, or None before the first bake. Raises InputError.

    The identity stays the same when the CA changes. Older versions of bake wrote no file with the identity. For their
    clusters, the digest of the CA certificate is the identity.
    """
    manifest = store.manifest()  # read first: another process may write both files for a new cluster
    if identity := _load_hex(store, IDENTITY, "32,64"):
        return identity
    if str(IDENTITY) in manifest:
        raise InputError.one(str(store.folder / IDENTITY), "is missing", "restore the missing file")
    ca_pem = store.read(pem_path(Role.CA))
    return hashlib.sha256(ca_pem).hexdigest() if ca_pem and manifest else None


def load_permit(store: Store) -> str | None:
    """Return the bootstrap permit, or None before the first bake. Raises InputError.

    The permit is the secret without which the first node cannot start a cluster. If the permit is lost before the
    cluster is sealed, a new permit could stop the first node: a seed with another permit applies immediately, but the
    node reads the permit only when it boots. Nodes of a sealed cluster need no permit, so the result is None.
    """
    manifest = store.manifest()  # read first, see `load_identity`
    permit = _load_hex(store, PERMIT_COPY, "64")
    if permit is None and str(PERMIT_COPY) in manifest and not store.has(SEALED):
        others = [path for path in map(PurePosixPath, manifest) if path.name == str(iso.SEED_PERMIT)]
        copy = next((path for path in others if path != PERMIT_COPY and store.has(path)), None)
        hint = "restore the file from a backup; if the cluster runs, you can seal it instead"
        hint = f"copy {store.folder / copy} to this path" if copy else hint
        raise InputError.one(str(store.folder / PERMIT_COPY), "is missing", hint)
    return permit


def _load_hex(store: Store, path: PurePosixPath, length: str) -> str | None:
    """Return the hexadecimal digits in a file, or None if the file is missing. Raises InputError."""
    raw = store.read(path)
    if raw is None:
        return None
    if not re.fullmatch(rf"[0-9a-f]{{{length}}}\n".encode(), raw):
        raise InputError.one(str(store.folder / path), "has content that bake did not write", "restore the file")
    return raw.decode().strip()


def load_keyring(
    store: Store,
    plan: ClusterPlan,
    *,
    now: datetime,
    passphrase: bytes | None,
    again: str = "bake",
    change: Callable[[Authorities], Authorities] = lambda found: found,
) -> Keyring:
    """Return the existing certificates and keys, from an earlier bake or from files that the user put into `pki/`.

    `again`: the command that bakes the cluster, for hints. `change`: a function that changes the CAs before they are
    checked, so that an expired CA can be replaced. Raises InputError.
    """
    identity = load_identity(store)
    authorities = load_authorities(store, plan, now=now, passphrase=passphrase)
    issuer = authorities.issuers.get(Role.CA)
    client = load_pair(store, Role.CLIENT)
    if client:
        _check_issuer(store, issuer, client)
    users = {name: load_pair(store, pki.user_stem(name)) for name in plan.spec.auth.common_names}
    nodes = tuple(_node_certificates(store, node.name, issuer, again) for node in plan.nodes)
    changed = change(authorities)
    check_authorities(changed, store, plan, now=now)
    _check_required_peer_name(plan.spec, store)
    _check_peer_names(plan, nodes)
    return Keyring(
        identity=identity, permit=load_permit(store), authorities=changed, client=client, users=users, nodes=nodes
    )


def _check_required_peer_name(spec: ClusterSpec, store: Store) -> None:
    """Raise InputError if the running nodes require a peer name that the new peer certificates would lack."""
    kept = load_kept(store.folder / SPEC) if store.read(SPEC) is not None else None
    if kept and kept.pki.peer_name is PeerName.REQUIRED and not _passes_check(spec, pki.peer_check(kept)):
        name = " ".join(pki.peer_check(kept))
        raise InputError.one(
            "pki.peerName",
            f"the running nodes require {name} in peer certificates, but the new certificates would lack it",
            "set pki.peerName to `stated` without other changes; then bake and restart the nodes one by one; or create "
            "a new cluster with another --name",
        )


def _passes_check(spec: ClusterSpec, wanted: tuple[str, str]) -> bool:
    """Return whether etcd with the option `wanted` accepts the peer certificates that `spec` describes."""
    shared = spec.pki.certificates is Certificates.SHARED
    return pki.peer_check(spec) == wanted and (shared or spec.pki.peer_name is not PeerName.NONE)


def _check_peer_names(plan: ClusterPlan, nodes: tuple[NodePki, ...]) -> None:
    """Raise InputError if pki.peerName is `required` and a peer certificate lacks the peer name."""
    peers = [(node.name, kept[Role.PEER]) for node, kept in zip(plan.nodes, nodes, strict=True) if Role.PEER in kept]
    without = [name for name, peer in peers if not pki.has_peer_name(peer.certificate, plan)]
    if without and plan.spec.pki.peer_name is PeerName.REQUIRED:
        raise InputError.one(
            "pki.peerName",
            f"the value is `required`, but the peer certificates of {', '.join(without)} lack the peer name",
            "first set pki.peerName to `stated` and bake; then run `bake certs rotate`",
        )


def _check_issuer(store: Store, authority: Issuer | None, issued: Credential) -> None:
    """Raise InputError if `authority` did not issue the certificate `issued`."""
    if authority is None or not pki.is_issued_by(issued.certificate, authority.certificate):
        message = "did not issue this cluster's certificates"
        raise InputError.one(
            str(store.folder / pem_path(Role.CA)),
            message if authority else "is missing, but certificates that this CA issued exist",
            "restore the cluster's CA, or create a new cluster with another --name",
        )


def load_seed(store: Store, name: str, again: str) -> Seed | None:
    """Return a node's seed, or None if its user-data is missing. Raises InputError if the user-data is damaged.

    `again`: the command that bakes the cluster, for hints.
    """
    user_data = store.read(PurePosixPath(name) / iso.USER_DATA)
    if user_data is None:
        return None
    remedy = f"restore the file from a backup, or remove the file and run {again}, {_new_keys(name)}"
    return iso.read_user_data(user_data, where=str(store.folder / name / iso.USER_DATA), remedy=remedy)


def require_seed(store: Store, name: str, again: str) -> Seed:
    """Return a node's seed. Raises InputError if its user-data is missing or damaged. `again`: see `load_seed`."""
    if seed := load_seed(store, name, again):
        return seed
    remedy = f"restore the file from a backup, or run {again}, {_new_keys(name)}"
    raise InputError.one(str(store.folder / name / iso.USER_DATA), "is missing", remedy)


def _new_keys(name: str) -> str:
    return f"which issues new certificates and keys for {name}"


def required_pems(store: Store, name: str, again: str) -> dict[Role, tuple[bytes, bytes]]:
    """Return a baked node's certificates and keys, by role. Raises InputError as `require_seed` does."""
    return _pems(require_seed(store, name, again))


def _pems(seed: Seed | None) -> dict[Role, tuple[bytes, bytes]]:
    files = seed.files if seed else {}
    return guest_files.node_credentials({path: file.content for path, file in files.items()})


def _node_certificates(store: Store, name: str, authority: Issuer | None, again: str) -> NodePki:
    where = str(store.folder / name / iso.USER_DATA)
    pems = _pems(load_seed(store, name, again))
    kept = {role: pki.parse_credential(*pair, where=(where, where)) for role, pair in pems.items()}
    if server := kept.get(Role.SERVER):
        _check_issuer(store, authority, server)
    return kept
