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
from generator.spec import CaSpec, Certificates, ClusterSpec

MAX_PASSPHRASE = 1024  # bytes
MAX_PEM = 1 << 16


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


def has_encrypted_key(store: Store, spec: ClusterSpec) -> bool:
    """Whether the CA's key, in the folder or where the spec says, cannot be used without a passphrase."""
    pem = store.read(key_path(Role.CA))
    if pem is None and spec.pki.ca.key:
        pem = _read_file(Path(spec.pki.ca.key), f"pki.ca.key: {spec.pki.ca.key}")
    return pki.is_encrypted(pem or b"")


def load_keyring(store: Store, plan: ClusterPlan, *, now: datetime, passphrase: bytes | None) -> Keyring:
    """Everything an earlier bake left, or that the user put into `pki/`. Raises InputError for what is unfit."""
    authority = _load_authority(store, plan, now=now, passphrase=passphrase)
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


def _load_authority(
    store: Store, plan: ClusterPlan, *, now: datetime, passphrase: bytes | None
) -> Credential | None:
    """The folder's CA; for a new cluster, the one that the spec names; None where there is none."""
    authority, stated = _load(store, Role.CA, passphrase), plan.spec.pki.ca
    where, days = str(store.folder / pem_path(Role.CA)), 0
    if authority:
        _refuse_other(stated, authority, where)
    elif stated.certificate and stated.key:
        fields = f"pki.ca.certificate: {stated.certificate}", f"pki.ca.key: {stated.key}"
        pems = [_read_file(Path(path), at) for path, at in zip((stated.certificate, stated.key), fields, strict=True)]
        authority = pki.parse_credential(pems[0], pems[1], where=fields, passphrase=passphrase)
        where, days = fields[0], plan.spec.pki.leaf_days - pki.BACKDATE.days
    if authority:
        problems = pki.check_authority(authority, now=now, where=where, days=days)
        if problems := problems or pki.check_names(authority, plan, where=where):
            raise InputError(problems)
    return authority


def _refuse_other(stated: CaSpec, authority: Credential, where: str) -> None:
    """The files that the spec names need not be there any more, but they must not be another CA's."""
    path = Path(stated.certificate or "")
    if path.is_file():
        field = f"pki.ca.certificate: {path}"
        if pki.parse_certificate(_read_file(path, field), where=field) != authority.certificate:
            remedy = "leave it out, or remove the cluster's folder to begin a new cluster"
            raise InputError.one(field, f"is another CA than this cluster's, {where}", remedy)


def _read_file(path: Path, where: str) -> bytes:
    try:
        if not path.is_file():
            raise InputError.one(where, "is not a file", "the path of a PEM file")
        with path.open("rb") as file:
            return file.read(MAX_PEM)
    except OSError as error:
        raise InputError.one(where, f"cannot be read: {error.strerror}", "the path of a PEM file") from None


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


def _kept_node(store: Store, name: str, authority: Credential | None) -> NodePki:
    where = str(store.folder / name / seed.USER_DATA)
    kept = {
        role: pki.parse_credential(*pair, where=(where, where)) for role, pair in seed_pems(store, name).items()
    }
    if server := kept.get(Role.SERVER):
        _refuse_foreign(store, authority, server)
    return kept
