"""The certificates and keys that a cluster's folder holds: read, and judged, before anything is written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from generator import pki, render, seed
from generator.authorities import Authorities, check_authorities, load_authorities, load_pair, pem_path
from generator.errors import InputError
from generator.host.store import Store
from generator.pki import Credential, Issuer, NodePki, Role
from generator.plan import ClusterPlan
from generator.spec import Certificates, PeerName
from generator.standing import refuse_lost_name

IDENTITY = PurePosixPath("identity")
MAX_PASSPHRASE = 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """What exists already: None or empty for what is still to be made."""

    identity: str | None
    authorities: Authorities
    client: Credential | None
    users: Mapping[str, Credential | None]  # etcd's, each with a client certificate
    nodes: tuple[NodePki, ...]

    def without(self, plan: ClusterPlan, names: Collection[str]) -> Keyring:
        """What stays when the nodes of these names get new certificates; what all nodes share goes with the first."""
        if names and plan.spec.pki.certificates is Certificates.SHARED:
            return replace(self, client=None, nodes=tuple({} for _ in self.nodes))
        pairs = zip(plan.nodes, self.nodes, strict=True)
        return replace(self, nodes=tuple({} if node.name in names else old for node, old in pairs))


def read_passphrase(path: Path) -> bytes:
    """The first line of a file, as OpenSSL's `file:` has it."""
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE + 2).split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise InputError.one(
            "--ca-passphrase-file", f"{path} cannot be read: {error.strerror}", "a file whose first line it is"
        ) from None
    if not 0 < len(line) <= MAX_PASSPHRASE:
        raise InputError.one(
            "--ca-passphrase-file",
            f"the first line of {path} is not 1 to {MAX_PASSPHRASE} bytes long",
            "a file whose first line is the passphrase",
        )
    return line


def load_identity(store: Store) -> str | None:
    """What tells this cluster from every other one; None for one that was not baked yet.

    It does not change with the CA. A cluster that was baked before there was such a file has its CA's digest.
    """
    raw, ca_pem = store.read(IDENTITY), store.read(pem_path(Role.CA))
    if raw is None:
        return hashlib.sha256(ca_pem).hexdigest() if ca_pem and store.manifest() else None
    if not re.fullmatch(rb"[0-9a-f]{32,64}\n", raw):
        raise InputError.one(str(store.folder / IDENTITY), "is not what bake wrote", "restore the file")
    return raw.decode().strip()


def load_keyring(
    store: Store,
    plan: ClusterPlan,
    *,
    now: datetime,
    passphrase: bytes | None,
    change: Callable[[Authorities], Authorities] = lambda found: found,
) -> Keyring:
    """Everything an earlier bake left, or that the user put into `pki/`, with its CAs changed.

    Raises InputError for what is unfit; a CA that has ended is not, where the next one issues.
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
    refuse_lost_name(plan.spec, store)
    _refuse_unnamed(plan, nodes)
    return Keyring(identity=identity, authorities=changed, client=client, users=users, nodes=nodes)


def _refuse_unnamed(plan: ClusterPlan, nodes: tuple[NodePki, ...]) -> None:
    """A node that requires the peers' name would refuse those whose certificates do not have it yet."""
    peers = [(node.name, kept[Role.PEER]) for node, kept in zip(plan.nodes, nodes, strict=True) if Role.PEER in kept]
    without = [name for name, peer in peers if not pki.has_peer_name(peer.certificate, plan)]
    if without and plan.spec.pki.peer_name is PeerName.REQUIRED:
        raise InputError.one(
            "pki.peerName",
            f"required, but the peer certificates of {', '.join(without)} do not have the peers' name yet",
            "first bake with pki.peerName: stated, then give every node new certificates: bake certs rotate",
        )


def _refuse_foreign(store: Store, authority: Issuer | None, issued: Credential) -> None:
    """A certificate of an earlier bake that another CA issued betrays a foreign or a lost CA."""
    if authority is None or not pki.is_issued_by(issued.certificate, authority.certificate):
        message = "is a foreign CA: it did not issue this cluster's certificates"
        raise InputError.one(
            str(store.folder / pem_path(Role.CA)),
            message if authority else "is missing, and certificates that it issued are here",
            "restore the cluster's CA, or remove the cluster's folder to begin a new cluster",
        )


def seed_pems(store: Store, name: str) -> dict[Role, tuple[bytes, bytes]]:
    """A node's certificates and keys as its seed has them; empty for a node that has no seed yet.

    The seed is their only copy on this machine: what need not exist twice cannot leak twice.
    """
    path = PurePosixPath(name) / seed.USER_DATA
    user_data = store.read(path)
    return render.node_credentials(seed.written_files(user_data, where=str(store.folder / path))) if user_data else {}


def required_pems(store: Store, name: str) -> dict[Role, tuple[bytes, bytes]]:
    """The same, of a node that was baked. Raises InputError where its seed is missing."""
    if pems := seed_pems(store, name):
        return pems
    raise InputError.one(str(store.folder / name / seed.USER_DATA), "is missing", "bake again")


def _kept_node(store: Store, name: str, authority: Issuer | None) -> NodePki:
    where = str(store.folder / name / seed.USER_DATA)
    kept = {
        role: pki.parse_credential(*pair, where=(where, where)) for role, pair in seed_pems(store, name).items()
    }
    if server := kept.get(Role.SERVER):
        _refuse_foreign(store, authority, server)
    return kept
