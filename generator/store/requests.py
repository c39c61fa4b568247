"""Get certificates from an external CA: write certificate signing requests, and read the issued certificates.

For each missing certificate, bake writes a request and a new key to the cluster's folder. The external CA signs the
request, and the user puts the certificate next to the request. The next bake uses the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from generator import pki
from generator.artifact import Artifact
from generator.config.pki import Certificates
from generator.errors import InputError, Problem, UnsignedError
from generator.layout import OPERATOR, REQUESTS, SHARED
from generator.pki import Credential, ExternalCa, PlannedCertificate, PrivateKey, Role
from generator.plan import ClusterPlan
from generator.store.existing_keys import Keyring
from generator.store.folder import Store


@dataclass(frozen=True, kw_only=True)
class Request:
    """A certificate signing request that has no certificate yet.

    `is_missing`: there is no valid certificate to use until the CA signs the request.
    """

    path: PurePosixPath  # the suffixes of request, key and certificate are .csr, .key and .pem
    csr: bytes
    key: bytes = field(repr=False)
    is_missing: bool

    @property
    def files(self) -> Iterator[Artifact]:
        yield Artifact(self.path, self.csr)
        yield Artifact(self.path.with_suffix(".key"), self.key, mode=0o600, secret=True)


class Signed(NamedTuple):
    """The cluster's certificates and keys, including the certificates from an external CA.

    `taken`: the files of the issued certificates.
    """

    keyring: Keyring
    requests: tuple[Request, ...]
    taken: tuple[PurePosixPath, ...]

    @property
    def files(self) -> Iterator[Artifact]:
        for request in self.requests:
            yield from request.files

    @property
    def missing(self) -> list[Request]:
        return [request for request in self.requests if request.is_missing]


def unsigned(store: Store, count: int, *, then: str) -> UnsignedError:
    """Return the error for `count` requests without a certificate. `then`: the user's next command."""
    where = f"let the CA sign each .csr below {store.folder / REQUESTS}, then put each certificate next to its .csr"
    return UnsignedError(
        f"an external CA must issue {count} certificates",
        hint=f"{where} (for example etcd-peer.pem next to etcd-peer.csr), then run {then}",
    )


def refuse_unsigned(store: Store, *, bake: str) -> None:
    """Raise UnsignedError if the cluster's folder contains certificate signing requests.

    `bake`: the command that bakes this cluster.
    """
    paths = [path for name in store.manifest() if (path := PurePosixPath(name)).is_relative_to(REQUESTS)]
    requests = [path for path in paths if path.suffix == ".csr"]
    if count := sum(store.read(path.with_suffix(".pem")) is None for path in requests):
        raise unsigned(store, count, then=bake)
    if requests:
        text = f"every certificate has been issued, but the cluster {store.cluster!r} is not baked yet"
        raise UnsignedError(text, hint=f"run {bake}")


def collect_issued(store: Store, plan: ClusterPlan, found: Keyring, *, now: datetime) -> Signed:
    """Read the issued certificates and request the missing ones. Raises InputError if etcd cannot use a certificate."""
    issued: dict[tuple[str, Role], Credential] = {}
    requests, taken, problems = [], [], []
    for wanted in found.planned(plan):
        authority = found.authorities.issuers.get(pki.issuer_of(plan.spec.pki, wanted.role))
        if not isinstance(authority, ExternalCa):
            continue
        path = REQUESTS / wanted.owner / f"{wanted.role}.csr"
        key = _pending_key(store, path)
        certificate = _issued_certificate(store, path, key) if key else None
        if certificate:
            mismatches = list(pki.mismatches(certificate, wanted.profile, authority, now=now))
            where = str(store.folder / path.with_suffix(".pem"))
            hint = f"let the CA sign {store.folder / path} without changes"
            problems += [Problem(where, misfit, hint) for misfit in mismatches]
            issued[wanted.owner, wanted.role] = certificate
            taken.append(path.with_suffix(".pem"))
            continue
        holds = wanted.old is not None and pki.is_current(wanted.old, wanted.profile, authority, now=now)
        if key or not holds:
            requests.append(_request(store, path, wanted, key, is_missing=not holds))
    if problems:
        raise InputError(problems)
    return Signed(keyring=_add_issued(found, plan, issued), requests=tuple(requests), taken=tuple(taken))


def _pending_key(store: Store, path: PurePosixPath) -> PrivateKey | None:
    place = path.with_suffix(".key")
    pem = store.read(place)
    return None if pem is None else pki.parse_key(pem, where=str(store.folder / place))


def _issued_certificate(store: Store, path: PurePosixPath, key: PrivateKey) -> Credential | None:
    place = path.with_suffix(".pem")
    pem = store.read(place)
    return None if pem is None else Credential(pki.parse_certificate(pem, where=str(store.folder / place)), key)


def _request(
    store: Store, path: PurePosixPath, wanted: PlannedCertificate, key: PrivateKey | None, *, is_missing: bool
) -> Request:
    """Return the existing request if it asks for the planned certificate, else a new request."""
    key = key or pki.generate_key(wanted.profile.key_type)
    csr = store.read(path)
    if csr is None or not pki.is_request_for(csr, wanted.profile, key):
        csr = pki.create_request(wanted.profile, key)
    return Request(path=path, csr=csr, key=pki.key_pem(key), is_missing=is_missing)


def _add_issued(found: Keyring, plan: ClusterPlan, issued: dict[tuple[str, Role], Credential]) -> Keyring:
    shared = plan.spec.pki.certificates is Certificates.SHARED
    nodes = tuple(
        {**old, **{role: one for (owner, role), one in issued.items() if owner == (SHARED if shared else node.name)}}
        for node, old in zip(plan.nodes, found.nodes, strict=True)
    )
    client = issued.get((OPERATOR, Role.CLIENT), found.client)
    users = {name: issued.get((pki.user_stem(name), Role.CLIENT), old) for name, old in found.users.items()}
    return replace(found, client=client, nodes=nodes, users=users) if issued or shared else found
