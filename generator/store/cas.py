"""Read and check the cluster's CAs, which are in the cluster's folder or in files that the spec names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from generator import pki
from generator.config.pki import CaSpec
from generator.config.spec import ClusterSpec
from generator.errors import InputError
from generator.layout import CHANGE, SPEC, key_path, pem_path
from generator.pki import Credential, ExternalCa, Issuer, Role
from generator.pki.ca_phases import Authorities, Authority, Phase, kept_authority, other_cas
from generator.plan import ClusterPlan
from generator.store.folder import Store
from generator.store.permissions import check_secret

MAX_PEM = 1 << 16


def non_issuing_files(store: Store, plan: ClusterPlan) -> Iterator[tuple[str, Role, str]]:
    """During a CA change, yield the CAs that issue no certificates: either the next CAs or the old CAs.

    Each result is a tuple with three elements: the word `next` or `old`, the CA's role, and the name of the CA's files
    without suffix.
    """
    if phase := load_phase(store):
        for role in pki.authority_roles(plan.spec.pki):
            yield other_cas(phase), role, f"{role}-{other_cas(phase)}"


def load_phase(store: Store) -> Phase | None:
    """Return the phase of the CA change, or None if no CA change is in progress. Raises InputError."""
    raw = store.read(CHANGE)
    if raw is None:
        return None
    try:
        return Phase(json.loads(raw)["phase"])
    except (ValueError, LookupError, TypeError, RecursionError):
        where = str(store.folder / CHANGE)
        raise InputError.one(where, "has content that bake did not write", "restore the file") from None


def load_authorities(store: Store, plan: ClusterPlan, *, now: datetime, passphrase: bytes | None) -> Authorities:
    """Return the CAs in the cluster's folder or, for a new cluster, the CAs that the spec names. Raises InputError."""
    phase = load_phase(store)
    _check_peer_ca_unchanged(store, plan)
    issuing, others = {}, {}
    for role in pki.authority_roles(plan.spec.pki):
        if found := _load_authority(store, plan, role, now=now, passphrase=passphrase):
            issuing[role] = found
        if phase:
            others[role] = _load_other(store, role, phase, passphrase)
    return Authorities(issuing=issuing, others=others, phase=phase)


def _check_peer_ca_unchanged(store: Store, plan: ClusterPlan) -> None:
    """Refuse a change of `pki.peerCa.separate`, because members with different peer CAs refuse each other."""
    manifest, separate = store.manifest(), plan.spec.pki.peer_ca.separate
    if str(SPEC) in manifest and separate is not (str(pem_path(Role.PEER_CA)) in manifest):
        rule = f"the value is `{str(separate).lower()}`, but this cluster's value is `{str(not separate).lower()}`"
        hint = "remove the field, or create a new cluster with another --name"
        raise InputError.one("pki.peerCa.separate", rule, hint)


def _load_other(store: Store, role: Role, phase: Phase, passphrase: bytes | None) -> Authority:
    stem = f"{role}-{other_cas(phase)}"
    found = load_pair(store, stem, passphrase)
    if found is None:
        where = str(store.folder / pem_path(stem))
        raise InputError.one(
            where, "is missing, but a CA change is in progress", "restore the certificate and its key"
        )
    return kept_authority(found, passphrase, file=store.read(key_path(stem)))


def _load_authority(
    store: Store, plan: ClusterPlan, role: Role, *, now: datetime, passphrase: bytes | None
) -> Authority | None:
    """Return the CA of a role, or None if bake must create it."""
    name, stated = _ca_fields(plan.spec, role)
    where = str(store.folder / pem_path(role))
    if stated.certificate and not stated.key and store.read(key_path(role)) is None:
        return _load_external(store, plan, role, name, stated, now)
    if found := load_pair(store, role, passphrase):
        _check_same_ca(name, stated, found, where)
        return kept_authority(found, passphrase, file=store.read(key_path(role)))
    if stated.certificate and stated.key:
        return read_authority(
            plan, role, stated.certificate, stated.key, names=(f"{name}.certificate", f"{name}.key"), now=now,
            passphrase=passphrase,
        )  # fmt: skip
    return None


def _load_external(store: Store, plan: ClusterPlan, role: Role, name: str, stated: CaSpec, now: datetime) -> Authority:
    """Return an external CA, which has a certificate but no key file."""
    where = str(store.folder / pem_path(role))
    if pem := store.read(pem_path(role)):
        found = ExternalCa(pki.parse_certificate(pem, where=where))
        _check_same_ca(name, stated, found, where)
    else:
        where = f"{name}.certificate: {stated.certificate}"
        found = ExternalCa(pki.parse_certificate(_read_file(Path(str(stated.certificate)), where), where=where))
        pki.check_authority(found, plan, role, now=now, where=where)
    return Authority(found, None)


def _ca_fields(spec: ClusterSpec, role: Role) -> tuple[str, CaSpec]:
    return ("pki.ca", spec.pki.ca) if role is Role.CA else ("pki.peerCa", spec.pki.peer_ca)


def read_authority(
    plan: ClusterPlan,
    role: Role,
    certificate: str,
    key: str,
    *,
    names: tuple[str, str],
    now: datetime,
    passphrase: bytes | None,
) -> Authority:
    """Read a CA from the user's files and check it. `names`: the fields or flags that set `certificate` and `key`.

    Raises InputError.
    """
    where = f"{names[0]}: {certificate}", f"{names[1]}: {key}"
    check_secret(Path(key), where[1])
    pems = [_read_file(Path(path), at) for path, at in zip((certificate, key), where, strict=True)]
    found = pki.parse_credential(pems[0], pems[1], where=where, passphrase=passphrase)
    days = plan.spec.pki.leaf_days - pki.BACKDATE.days
    pki.check_authority(found, plan, role, now=now, where=where[0], days=days)
    return kept_authority(found, passphrase)


def check_authorities(found: Authorities, store: Store, plan: ClusterPlan, *, now: datetime) -> None:
    """Raise InputError if a CA cannot issue the cluster's certificates."""
    is_baked = str(SPEC) in store.manifest()
    for role, one in found.issuing.items():
        remedy = "use another CA"
        if is_baked:
            remedy = "run bake certs rotate --ca" + ("" if one.key_file else ", which needs this CA's key")
        where = str(store.folder / pem_path(role))
        pki.check_authority(one.credential, plan, role, now=now, where=where, remedy=remedy)


def _check_same_ca(name: str, stated: CaSpec, authority: Issuer, where: str) -> None:
    """Raise InputError if the spec names a CA certificate that is not the cluster's CA. Ignore a missing file."""
    path = Path(stated.certificate or "")
    if path.is_file():
        field = f"{name}.certificate: {path}"
        if pki.parse_certificate(_read_file(path, field), where=field) != authority.certificate:
            remedy = "remove this field; to replace the cluster's CA, run bake certs rotate --ca"
            raise InputError.one(field, f"is not this cluster's CA, {where}", remedy)


def has_encrypted_key(store: Store, spec: ClusterSpec) -> bool:
    """Return whether any of the cluster's CAs has an encrypted private key."""
    return any(pki.is_encrypted(_key_of(store, spec, role)) for role in pki.authority_roles(spec.pki))


def _key_of(store: Store, spec: ClusterSpec, role: Role) -> bytes:
    (name, stated), pem = _ca_fields(spec, role), store.read(key_path(role))
    if pem is None and stated.key:
        check_secret(Path(stated.key), f"{name}.key: {stated.key}")
        pem = _read_file(Path(stated.key), f"{name}.key: {stated.key}")
    return pem or b""


def _read_file(path: Path, where: str) -> bytes:
    try:
        if not path.is_file():
            raise InputError.one(where, "is not a file", "give the path of a PEM file")
        with path.open("rb") as file:
            return file.read(MAX_PEM)
    except OSError as error:
        raise InputError.one(where, f"cannot be read: {error.strerror}", "give the path of a PEM file") from None


def load_pair(store: Store, stem: str, passphrase: bytes | None = None) -> Credential | None:
    """Return the certificate and the key in `pki/STEM.pem` and `pki/STEM.key`, or None if both are missing.

    Raises InputError.
    """
    pem, key = store.read(pem_path(stem)), store.read(key_path(stem))
    where = str(store.folder / pem_path(stem)), str(store.folder / key_path(stem))
    if pem is None and key is None:
        return None
    if pem is None or key is None:
        missing, found = ("key", "certificate") if pem else ("certificate", "key")
        message = f"the {missing} is missing but its {found} exists"
        raise InputError.one(where[pem is not None], message, "restore the missing file")
    return pki.parse_credential(pem, key, where=where, passphrase=passphrase)
