"""The certificates and keys that a cluster's folder holds: read, and judged, before anything is written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from generator import pki, render, seed
from generator.errors import InputError
from generator.host.store import Store
from generator.pki import Credential, NodePki, Role
from generator.plan import ClusterPlan
from generator.spec import Certificates

MAX_PASSPHRASE = 1024  # bytes


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """What exists already: None or empty for what is still to be made. `ca_key` is the CA's key file as it is."""

    authority: Credential | None
    client: Credential | None
    nodes: tuple[NodePki, ...]
    ca_key: bytes | None = field(repr=False)

    def without(self, plan: ClusterPlan, names: Collection[str]) -> Keyring:
        """What stays when the nodes of these names get new certificates; what all nodes share goes with the first."""
        if names and plan.spec.pki.certificates is Certificates.SHARED:
            return replace(self, client=None, nodes=tuple({} for _ in self.nodes))
        pairs = zip(plan.nodes, self.nodes, strict=True)
        return replace(self, nodes=tuple({} if node.name in names else old for node, old in pairs))


def pem_path(role: Role) -> PurePosixPath:
    return PurePosixPath("pki", f"{role}.pem")


def key_path(role: Role) -> PurePosixPath:
    return PurePosixPath("pki", f"{role}.key")


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


def has_encrypted_key(store: Store) -> bool:
    """Whether the CA's key in the folder cannot be used without a passphrase."""
    return pki.is_encrypted(store.read(key_path(Role.CA)) or b"")


def load_keyring(store: Store, plan: ClusterPlan, *, now: datetime, passphrase: bytes | None) -> Keyring:
    """Everything an earlier bake left, or that the user put into `pki/`. Raises InputError for what is unfit."""
    authority = _load(store, Role.CA, passphrase)
    if authority:
        where = str(store.folder / pem_path(Role.CA))
        if problems := pki.check_authority(authority, now=now, where=where):
            raise InputError(problems)
    client = _load(store, Role.CLIENT)
    if client:
        _refuse_foreign(store, authority, client)
    nodes = tuple(_kept_node(store, node.name, authority) for node in plan.nodes)
    return Keyring(authority=authority, client=client, nodes=nodes, ca_key=store.read(key_path(Role.CA)))


def ca_key_file(keyring: Keyring, authority: Credential, passphrase: bytes | None) -> bytes:
    """The CA's key as the folder is to have it; one that is encrypted already stays as it is."""
    if passphrase is None:
        return authority.key_pem
    if keyring.ca_key and pki.is_encrypted(keyring.ca_key):
        return keyring.ca_key
    return pki.encrypt_key(authority.key, passphrase)


def _refuse_foreign(store: Store, authority: Credential | None, issued: Credential) -> None:
    """A certificate of an earlier bake that another CA issued betrays a foreign or a lost CA."""
    if authority is None or not pki.is_issued_by(issued.certificate, authority.certificate):
        message = "is a foreign CA: it did not issue this cluster's certificates"
        raise InputError.one(
            str(store.folder / pem_path(Role.CA)),
            message if authority else "is missing, and certificates that it issued are here",
            "restore the cluster's CA, or remove the cluster's folder to begin a new cluster",
        )


def _load(store: Store, role: Role, passphrase: bytes | None = None) -> Credential | None:
    pem, key = store.read(pem_path(role)), store.read(key_path(role))
    where = str(store.folder / pem_path(role)), str(store.folder / key_path(role))
    if pem is None and key is None:
        return None
    if pem is None or key is None:
        raise InputError.one(where[pem is not None], "is missing, and its other half is there", "restore the pair")
    return pki.parse_credential(pem, key, where=where, passphrase=passphrase)


def _kept_node(store: Store, name: str, authority: Credential | None) -> NodePki:
    """A node's certificates as its existing seed has them; empty for a node that has none yet.

    The seed is their only copy on this machine: what need not exist twice cannot leak twice.
    """
    path = PurePosixPath(name) / seed.USER_DATA
    user_data = store.read(path)
    where = str(store.folder / path)
    pairs = render.node_credentials(seed.written_files(user_data, where=where)) if user_data else {}
    kept = {role: pki.parse_credential(*pair, where=(where, where)) for role, pair in pairs.items()}
    if server := kept.get(Role.SERVER):
        _refuse_foreign(store, authority, server)
    return kept
