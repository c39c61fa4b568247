"""`bake`, `bake check`, and the files of `bake seal`: read the folder, issue what is missing, write the folder."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NoReturn

from generator import RELEASED, pki
from generator.artifact import Artifact
from generator.config import yaml12
from generator.config.fields import plain
from generator.config.spec import ClusterSpec
from generator.config.user_input import UserInput, parse_input
from generator.errors import InputError, Problem, StaleError
from generator.layout import IDENTITY, INPUT, OPERATOR, PERMIT_COPY, SEALED, SPEC, key_path, pem_path
from generator.operations.etcdctl_env import etcdctl_env
from generator.pki.ca_phases import Authorities, Authority, kept_authority
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report
from generator.seed import guest_files, iso
from generator.seed.etcd_archive import read_archive
from generator.seed.guest_files import Trust
from generator.store.existing_keys import Keyring, load_keyring
from generator.store.folder import Store
from generator.store.requests import Signed, collect_issued, unsigned

Announce = Callable[[tuple[tuple[str, str], ...]], None]  # called with the files to change, just before the change


@dataclass(frozen=True, slots=True)
class Baked:
    """A baked cluster. `changed`: the files that this run wrote; `differences`: (sign, path), also of removed files."""

    plan: ClusterPlan
    folder: Path
    changed: tuple[str, ...]
    differences: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The user's input, with consent to what it changes. `digest`: of the folder that the input was compared with.

    `announce` replaces the parameter of `bake`.
    """

    user_input: UserInput
    digest: str
    announce: Announce


def bake(
    spec: ClusterSpec,
    store: Store,
    *,
    now: datetime,
    report: Report,
    passphrase: bytes | None = None,
    renew: Collection[str] = (),
    change: Callable[[Authorities], Authorities] = lambda found: found,
    agreed: Agreed | None = None,
    announce: Announce = lambda _: None,
) -> Baked:
    """Make everything that a cluster needs to boot, and write it to the store's folder.

    `agreed`: default: keep the earlier user input as far as the spec still has it. Raise StaleError if the folder has
    changed since. `passphrase`: decrypts the CA's key, or encrypts it if it is not encrypted yet. `renew`: owners
    (`pki.PlannedCertificate`) that get new certificates although theirs are still valid; a shared certificate is
    renewed for all.
    The operator's certificate is renewed before it expires. `change`: modifies the existing CAs.
    """
    check_clock(now)
    extras = read_archive(spec.install)
    store.check()
    plan = plan_cluster(spec)
    with store.locked(report):
        store.check()
        if agreed and store.digest() != agreed.digest:
            raise StaleError(f"another run of bake has changed {store.folder}", hint="run the same command again")
        if agreed is None:
            _refuse_edited(store)
        user_input = (agreed.user_input.file,) if agreed else _kept_input(store, spec)
        found = load_keyring(store, plan, now=now, passphrase=passphrase, change=change)
        if found.newest_start and found.newest_start > now:
            report(f"warning: {_two_clocks(found.newest_start, now)}")
        ends = found.expiring_client(plan, now)
        found = found.without(plan, [*renew, *([OPERATOR] if ends else [])])
        signed = collect_issued(store, plan, found, now=now)
        if signed.missing:
            _ask(store, signed, user_input)
        found, sealed = signed.keyring, load_seal(store)
        issuers = found.authorities.issuers
        missing = pki.missing_certificates(plan, issuers, found.planned(plan), now=now)
        days = pki.days_limited_by_ca(plan, issuers, [one.role for one in missing], now=now)
        if days is not None:
            report(_limited_by_ca(plan, days))
        new_cas = set(pki.authority_roles(spec.pki)) - set(issuers)
        count = len(missing) + len(new_cas)
        with (
            pki.pregenerated_keys(spec.pki.key_type, count, workers=os.cpu_count() or 1) as new_key,
            store.replacing() as folder,
        ):
            work = _everything(plan, found, extras, sealed, now=now, passphrase=passphrase, new_key=new_key)
            for artifact in chain(signed.files, user_input, work):
                folder.write(artifact)
            for path in signed.taken:
                folder.drop(path)
            differences = folder.differences
            (agreed.announce if agreed else announce)(differences)
    if ends:
        report(f"the operator has a new certificate: the old one expires on {ends:%Y-%m-%d}")
    return Baked(plan, store.folder, tuple(folder.changed), differences)


def _refuse_edited(store: Store) -> None:
    """Raise InputError for an edited spec: commands that do not show changes must not apply such edits."""
    manifest = store.manifest()
    for path in (SPEC, INPUT):
        raw, listed = store.read(path), manifest.get(str(path))
        if listed and raw is not None and hashlib.sha256(raw).hexdigest() != listed.get("sha256"):
            hint = "undo the change; to change the cluster: bake, with flags or --config FILE"
            raise InputError.one(str(store.folder / path), "was changed after bake wrote it", hint)


def _kept_input(store: Store, spec: ClusterSpec) -> tuple[Artifact, ...]:
    raw = store.read(INPUT)
    if raw is None or str(INPUT) not in store.manifest():
        return ()
    user_input, _ = parse_input(raw.decode(), str(store.folder / INPUT))
    return (user_input.matching(spec).file,)


def _everything(
    plan: ClusterPlan,
    found: Keyring,
    extras: tuple[Artifact, ...],
    sealed: tuple[Artifact, ...],
    *,
    now: datetime,
    passphrase: bytes | None,
    new_key: pki.NewKey,
) -> Iterator[Artifact]:
    """Yield every file of the folder and issue what is missing. One node at a time, to limit memory."""

    def new_authority(role: pki.Role) -> Authority:
        return kept_authority(pki.create_authority(plan, role, now=now, new_key=new_key), passphrase)

    authorities = found.authorities.completed(plan, new_authority)
    trust = Trust(
        identity=found.identity or secrets.token_hex(16),
        permit=found.permit or secrets.token_hex(32),
        ca_pem=authorities.trusted(pki.Role.CA) or b"",
        peer_ca_pem=authorities.trusted(pki.Role.PEER_CA),
    )
    issuer, peer_issuer = authorities.issuers[pki.Role.CA], authorities.issuers.get(pki.Role.PEER_CA)
    client = pki.issue_client(plan, issuer, now=now, kept=found.client, new_key=new_key)
    users = {
        pki.user_stem(name): pki.issue_client(plan, issuer, now=now, user=name, kept=old, new_key=new_key)
        for name, old in found.users.items()
    }
    nodes = pki.issue_nodes(
        plan, issuer, peer_authority=peer_issuer, now=now, client=client, kept=found.nodes, new_key=new_key
    )
    yield from authorities.files()
    yield from operator_files(plan, trust, {str(pki.Role.CLIENT): client, **users})
    yield from sealed
    for node, credentials in zip(plan.nodes, nodes, strict=True):
        yield from node_files(plan, node, trust, credentials, extras, sealed=bool(sealed))


def _limited_by_ca(plan: ClusterPlan, days: int) -> str:
    text = f"the CA expires in {days} days; certificates issued now expire with it, not after {plan.spec.pki.leaf_days}"
    return f"warning: {text}\n  hint: give a running cluster a new CA: bake certs rotate --ca"


def _ask(store: Store, signed: Signed, user_input: tuple[Artifact, ...]) -> NoReturn:
    """Write certificate requests, and for a new cluster the user's input. Always raise UnsignedError."""
    identity = Artifact(IDENTITY, f"{signed.keyring.identity or secrets.token_hex(16)}\n".encode())
    with store.replacing() as folder:
        for artifact in (identity, *signed.files, *(() if str(SPEC) in store.manifest() else user_input)):
            folder.write(artifact)
        folder.keep_others()
    raise unsigned(store, len(signed.missing), then=" the same command again")






def check(spec: ClusterSpec, store: Store, *, now: datetime, passphrase: bytes | None = None) -> None:
    """Raise InputError with every reason why `bake` would refuse. Write nothing."""
    problems: list[Problem] = []
    for look in (
        lambda: check_clock(now),
        lambda: read_archive(spec.install),
        store.check,
        lambda: _take_stock(store, plan_cluster(spec), now, passphrase),
    ):
        try:
            look()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))


def _take_stock(store: Store, plan: ClusterPlan, now: datetime, passphrase: bytes | None) -> None:
    collect_issued(store, plan, load_keyring(store, plan, now=now, passphrase=passphrase), now=now)


def check_clock(now: datetime) -> None:
    """Raise InputError for a clock that is certainly wrong: nodes with correct clocks would refuse the certificates."""
    rule = None
    if now < RELEASED:
        rule = f"before {RELEASED:%Y-%m-%d}, the release date of this bake"
    elif now.year > 9899:  # caDays: at most 100 years
        rule = "after 9899"
    if rule:
        raise InputError.one("this machine's clock", f"{now:%Y-%m-%d} is {rule}", "set the clock")


def _two_clocks(newest_start: datetime, now: datetime) -> str:
    """Describe a certificate that is not valid yet: this clock is behind, or an earlier one was ahead."""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    certificate = f"but a certificate in the folder begins on {newest_start:%Y-%m-%d %H:%M}; it is replaced"
    return f"{clock}, {certificate}. If the clock is wrong, the new certificates expire too early"


def node_files(
    plan: ClusterPlan,
    node: NodePlan,
    trust: Trust,
    credentials: pki.NodePki,
    extras: tuple[Artifact, ...],
    *,
    sealed: bool,
) -> Iterator[Artifact]:
    """Yield one node's files: the seed's, the first node's permit, and the ISO."""
    files = iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, credentials))
    if node.bootstrap and not sealed:
        files += (Artifact(iso.SEED_PERMIT, f"{trust.permit}\n".encode(), mode=0o600, secret=True),)
    for file in (*files, iso.pack((*files, *extras))):
        yield Artifact(node.name / file.path, file.data, file.mode, file.secret)


def operator_files(plan: ClusterPlan, trust: Trust, clients: Mapping[str, pki.Credential]) -> Iterator[Artifact]:
    """Yield the operator's files: client certificates, spec, etcdctl.env, the cluster's identity, and the permit, of
    which the first node's ISO has a copy until the cluster is sealed."""
    for stem, client in clients.items():
        yield Artifact(pem_path(stem), client.cert_pem)
        yield Artifact(key_path(stem), client.key_pem, mode=0o600, secret=True)
    yield Artifact(IDENTITY, f"{trust.identity}\n".encode())
    yield Artifact(PERMIT_COPY, f"{trust.permit}\n".encode(), mode=0o600, secret=True)
    spec = plain(plan.spec)
    yield Artifact(SPEC, yaml12.dump(spec).encode())
    yield Artifact(PurePosixPath("etcdctl.env"), etcdctl_env(plan))


def load_seal(store: Store) -> tuple[Artifact, ...]:
    """Return the file that marks a cluster as sealed, if it exists; its content does not matter."""
    mark = store.read(SEALED)
    return () if mark is None else (Artifact(SEALED, mark),)
