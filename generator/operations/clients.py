"""`bake client`: certificates and configuration of the applications that use a cluster."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath

from generator import pki
from generator.artifact import Artifact
from generator.clients.access import check_access, check_name, has_common_name
from generator.clients.application import CA, CERTIFICATE, KEY, PASSWORD, REQUEST, Application, Configuration, Kind
from generator.clients.kinds import FOLDERS, access_note, configuration, needs_password
from generator.config.values import folder as parse_folder
from generator.errors import InputError, Problem, UnsignedError
from generator.layout import CLIENTS, MANIFEST, pem_path
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.hints import command
from generator.pki import CertProfile, Credential, ExternalCa, Role
from generator.progress import Report
from generator.store.cas import check_authorities, load_authorities
from generator.store.client_files import Record, client_names, load_credential, load_key, load_record
from generator.store.existing_keys import expires_soon
from generator.store.folder import Store


@dataclass(frozen=True, kw_only=True)
class Added:
    """The result of `add`. `files`: all files of the application. `differences`: as in `Staging.differences`."""

    app: Application
    configuration: Configuration
    files: tuple[Artifact, ...]
    differences: tuple[tuple[str, str], ...]
    credential: Credential

    @property
    def note(self) -> str:
        return access_note(self.app)


@dataclass(frozen=True, kw_only=True)
class ClientStatus:
    """An application in the cluster's folder.

    `days_left`: days until its certificate expires; None while an external CA has not issued it. `outdated`: why
    `bake client add` would change its files, or "".
    """

    name: str
    kind: Kind
    folder: str
    days_left: int | None
    outdated: str


def add(
    store: Store,
    name: str,
    kind: Kind | None,
    *,
    target: str | None,
    renew: bool,
    now: datetime,
    passphrase: bytes | None,
    report: Report,
) -> Added:
    """Issue an application's certificate, and write its configuration. Files that are up to date stay unchanged.

    `kind`, `target`: the kind of application and the folder on its machine; None: as the last time. `renew`: replace
    the certificate and the key even if they are valid.
    Raise UnsignedError if an external CA must sign the certificate first.
    """
    with store.locked(report):
        cluster = open_cluster(store)
        record = _record(store, cluster, name, kind, target)
        authorities = load_authorities(store, cluster.plan, now=now, passphrase=passphrase)
        check_authorities(authorities, store, cluster.plan, now=now)
        issuer = authorities.issuers[Role.CA]
        app = _application(cluster, name, record, create_password=True)
        profile = pki.application_profile(cluster.plan, name, named=has_common_name(record.kind))
        kept = None if renew else load_credential(store, name)
        if isinstance(issuer, ExternalCa):
            credential, waiting = _issued(store, name, profile, issuer, kept, renew=renew, now=now)
        else:
            usable = kept if kept and not expires_soon(kept, issuer, now) else None
            credential, waiting = pki.issue_profile(profile, issuer, now=now, kept=usable), ()
        config = configuration(app)
        files = (*(waiting or _credential_files(credential)), record.file, *_common_files(store, config))
        differences = _write(store, name, files)
    if credential is None:
        request = store.folder / CLIENTS / name / REQUEST
        raise UnsignedError(
            f"your CA must issue the certificate of {name}",
            hint=f"let your CA sign {request}, save the certificate as {request.with_suffix('.pem')}, then run "
            f"{command(store, f'client add {name}')}",
        )
    return Added(app=app, configuration=config, files=files, differences=differences, credential=credential)


def loss_of(cluster: Cluster, name: str, kind: Kind | None, *, target: str | None) -> str | None:
    """Return what `add` would delete, because an existing application gets another kind, or None. Raises InputError."""
    new, old = _record(cluster.store, cluster, name, kind, target), load_record(cluster.store, name)
    if old is None or old.kind is new.kind:
        return None
    text = f"{name}: its configuration for {old.kind} is deleted"
    return text if has_common_name(old.kind) is has_common_name(new.kind) else f"{text}, and its key is replaced"


def remove(store: Store, name: str, *, report: Report) -> tuple[str, ...]:
    """Delete the files of an application that bake wrote, and return their paths."""
    with store.locked(report):
        require(store, name)
        return tuple(path for _, path in _write(store, name, ()))


def require(store: Store, name: str) -> None:
    """Raise InputError if the folder has no application with this name."""
    known = client_names(store)
    if name not in known:
        hint = f"use one of {', '.join(known)}" if known else f"add one: {command(store, 'client add NAME --for KIND')}"
        raise InputError.one("NAME", f"there is no client {name!r}", hint)


def statuses(cluster: Cluster, *, now: datetime) -> Iterator[ClientStatus]:
    """Yield the state of every application."""
    store = cluster.store
    for name in client_names(store):
        if record := load_record(store, name):
            credential = load_credential(store, name)
            app = _application(cluster, name, record, create_password=False)
            end = credential.certificate.not_valid_after_utc if credential else None
            yield ClientStatus(
                name=name, kind=record.kind, folder=str(app.folder), days_left=(end - now).days if end else None,
                outdated=_outdated(cluster, app, credential, now),
            )  # fmt: skip


def _outdated(cluster: Cluster, app: Application, credential: Credential | None, now: datetime) -> str:
    """Return why an application's files are not up to date. It needs no key of a CA."""
    store = cluster.store
    if credential is None:
        return "not issued yet"
    if credential.certificate.not_valid_after_utc <= now:
        return "expired"
    ca = pki.parse_certificate(store.read(pem_path(Role.CA)) or b"", where=str(store.folder / pem_path(Role.CA)))
    if not pki.is_issued_by(credential.certificate, ca):
        return "issued by another CA"
    if [*check_access(cluster.plan.spec.auth, app.name, app.kind)]:
        return "without access"
    expected = _common_files(store, configuration(app))
    if any(store.read(CLIENTS / app.name / file.path) != file.data for file in expected):
        return "other configuration"
    return ""


def _record(store: Store, cluster: Cluster, name: str, kind: Kind | None, target: str | None) -> Record:
    """Return what is known about an application. Raise InputError with every problem of the user's input."""
    problems = [*check_name(cluster.plan, name)]
    old = None if problems else load_record(store, name)
    kind = kind or (old.kind if old else None)
    if kind is None:
        problems.append(Problem("--for", "is required for a new client", f"use one of {', '.join(Kind)}"))
    elif not problems:
        problems += check_access(cluster.plan.spec.auth, name, kind)
    if target is not None:
        try:
            parse_folder(target)
        except ValueError as error:
            problems.append(Problem("--dir", str(error), "give the folder on the application's machine"))
    if problems or kind is None:
        raise InputError(problems)
    kept = old.folder if old and old.kind is kind else FOLDERS[kind]
    return Record(kind=kind, folder=target or kept)


def _application(cluster: Cluster, name: str, record: Record, *, create_password: bool) -> Application:
    store, password = cluster.store, None
    home = PurePosixPath(store.folder / CLIENTS / name)
    if needs_password(record.kind, auth=cluster.plan.spec.auth.enabled):
        raw = store.read(CLIENTS / name / PASSWORD)
        password = raw.decode(errors="replace").strip() if raw else None
        if password is None:
            password = secrets.token_urlsafe(32) if create_password else ""
    return Application(
        name=name, kind=record.kind, plan=cluster.plan, folder=PurePosixPath(record.folder or home), home=home,
        etcdctl=command(store, "etcdctl"), password=password,
    )  # fmt: skip


def _common_files(store: Store, config: Configuration) -> list[Artifact]:
    """Return the files that need no key: the trusted CAs and the configuration."""
    return [Artifact(CA, store.read(pem_path(Role.CA)) or b""), *config.files]


def _credential_files(credential: Credential | None) -> tuple[Artifact, ...]:
    if credential is None:
        raise AssertionError("there is neither a certificate nor a request: this is a bug in bake")
    key = Artifact(KEY, credential.key_pem, mode=0o600, secret=True)
    return (Artifact(CERTIFICATE, credential.cert_pem), key)


def _issued(
    store: Store,
    name: str,
    profile: CertProfile,
    authority: ExternalCa,
    kept: Credential | None,
    *,
    renew: bool,
    now: datetime,
) -> tuple[Credential | None, tuple[Artifact, ...]]:
    """Return the certificate that an external CA has issued, or None and the files of a request."""
    pending = store.read(CLIENTS / name / REQUEST) is not None
    if kept and (found := list(pki.mismatches(kept, profile, authority, now=now))):
        if pending:
            where = str(store.folder / CLIENTS / name / CERTIFICATE)
            hint = f"let the CA sign {store.folder / CLIENTS / name / REQUEST} without changes"
            raise InputError(Problem(where, misfit, hint) for misfit in found)
        kept = None
    if kept:
        return kept, ()
    key = (None if renew else load_key(store, name)) or pki.generate_key(profile.key_type)
    request = store.read(CLIENTS / name / REQUEST)
    if request is None or not pki.is_request_for(request, profile, key):
        request = pki.create_request(profile, key)
    key_file = Artifact(KEY, pki.key_pem(key), mode=0o600, secret=True)
    return None, (Artifact(REQUEST, request), key_file)


def _write(store: Store, name: str, files: tuple[Artifact, ...]) -> tuple[tuple[str, str], ...]:
    """Replace the files of an application, and keep all others. Return the differences."""
    home = CLIENTS / name
    old = [path for path in map(PurePosixPath, store.manifest()) if path.is_relative_to(home)]
    with store.replacing() as folder:
        for file in files:
            folder.write(replace(file, path=home / file.path))
        if files and not any(file.path == CERTIFICATE for file in files):
            folder.drop(home / CERTIFICATE)  # a certificate of an earlier request
        folder.keep_others(*old)
    return tuple((sign, path) for sign, path in folder.differences if path != str(MANIFEST))
