"""`bake` and `bake check`: read the cluster's folder, issue missing certificates, and write the folder."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn

from generator import RELEASED, pki
from generator.artifact import Artifact
from generator.config.spec import ClusterSpec
from generator.config.user_input import UserInput, parse_input
from generator.errors import InputError, Problem, StaleError
from generator.layout import IDENTITY, INPUT, OPERATOR, PERMIT_COPY, SPEC
from generator.operations.cluster_files import kept_clients, kept_snapshot, load_seal, node_files, operator_files
from generator.operations.hints import command
from generator.operations.reporting.last_bake import note_bake
from generator.pki.ca_phases import Authorities, Authority, kept_authority
from generator.plan import ClusterPlan, plan_cluster
from generator.progress import Report
from generator.seed import iso
from generator.seed.etcd_archive import read_archive
from generator.seed.guest_files import Trust
from generator.store import manifest
from generator.store.existing_keys import Keyring, load_keyring
from generator.store.folder import Store
from generator.store.requests import Signed, collect_issued, unsigned
from generator.store.seed_history import recorded

Announce = Callable[[tuple[tuple[str, str], ...]], None]  # receives pairs of a sign (+, - or ~) and a file's path


class Baked(NamedTuple):
    """A baked cluster.

    `changed`: the files that this run wrote. `differences`: the files that this run changed, added or removed, as
    (sign, path). The signs are "~" for a changed file, "+" for an added file and "-" for a removed file.
    """

    plan: ClusterPlan
    folder: Path
    changed: tuple[str, ...]
    differences: tuple[tuple[str, str], ...] = ()


class Agreed(NamedTuple):
    """The user's input, after the user has confirmed the changes.

    `digest`: the digest of the cluster's folder when the user confirmed. `announce`: used instead of the parameter
    `announce` of `bake`.
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
    snapshot: tuple[Artifact, ...] = (),
) -> Baked:
    """Write keys, certificates, seeds and ISOs to the store's folder.

    `agreed`: the new user input. If `agreed` is None, keep the stored user input without the values that differ from
    `spec`.
    `passphrase`: decrypts the CA key, or encrypts a CA key that is not encrypted yet.
    `renew`: owners (see `pki.PlannedCertificate`) whose certificates are replaced even if they are valid.
    `change`: returns the CAs to use instead of the existing CAs, for example in a CA change.
    `snapshot`: a snapshot and its record for the first node's ISO. The cluster is then no longer sealed, so that new
    nodes can start it with the snapshot's data.

    If the nodes share a certificate and `renew` contains one node, all nodes get the new certificate. If the operator's
    certificate expires soon, bake renews the certificate.

    Raise StaleError if the folder has changed since the user agreed.
    """
    check_clock(now)
    extras = read_archive(spec.install)
    store.check()
    plan = plan_cluster(spec)
    with store.locked(report):
        store.check()
        if agreed and store.digest() != agreed.digest:
            raise StaleError(f"another command has changed {store.folder}", hint="run the same command again")
        if agreed is None:
            _refuse_edited(store)
        user_input = (agreed.user_input.file,) if agreed else _kept_input(store, spec)
        found = load_keyring(
            store, plan, now=now, passphrase=passphrase, again=command(store, ""), change=change
        )
        for text in _replaced(store, plan, found):
            report(f"warning: {text}")
        if found.newest_start and found.newest_start > now:
            report(f"warning: {_not_valid_yet(found.newest_start, now)}")
        ends = found.expiring_client(plan, now)
        found = found.without(plan, [*renew, *([OPERATOR] if ends else [])])
        signed = collect_issued(store, plan, found, now=now)
        if signed.missing:
            _request_certificates(store, signed, user_input)
        found, seal = signed.keyring, () if snapshot else load_seal(store)
        issuers = found.authorities.issuers
        missing = pki.missing_certificates(plan, issuers, found.planned(plan), now=now)
        days = pki.days_limited_by_ca(plan, issuers, [one.role for one in missing], now=now)
        if days is not None:
            report(_limited_by_ca(plan, store, days))
        count = len(missing) + len(set(pki.authority_roles(spec.pki)) - set(issuers))
        with (
            pki.pregenerated_keys(spec.pki.key_type, count, workers=os.cpu_count() or 1) as new_key,
            store.replacing() as folder,
        ):
            expiry: manifest.Expiry = {}
            files = _all_files(
                plan, found, extras, seal, () if seal else snapshot or kept_snapshot(store),
                now=now, passphrase=passphrase, new_key=new_key, expiry=expiry,
            )  # fmt: skip
            for artifact in recorded(store, plan, chain(signed.files, user_input, kept_clients(store), files)):
                folder.write(artifact)
            for path in signed.taken:
                folder.drop(path)
            folder.facts = manifest.describe(plan, expiry)
            differences = note_bake(folder, spec, now=now)
            (agreed.announce if agreed else announce)(differences)
    if ends:
        report(f"the operator has a new certificate, because the old certificate expires on {ends:%Y-%m-%d}")
    return Baked(plan, store.folder, tuple(folder.changed), differences)


def _refuse_edited(store: Store) -> None:
    """Raise InputError if the stored spec or the stored user input was edited."""
    files = store.manifest()
    for path in (SPEC, INPUT):
        raw, listed = store.read(path), files.get(str(path))
        if listed and raw is not None and hashlib.sha256(raw).hexdigest() != listed.get("sha256"):
            hint = "undo your edit; to change the cluster, run bake with flags or with --config FILE"
            raise InputError.one(str(store.folder / path), "was changed after bake wrote it", hint)


def _replaced(store: Store, plan: ClusterPlan, found: Keyring) -> Iterator[str]:
    """Yield a sentence for each lost secret that bake replaces."""
    files = store.manifest()
    if str(PERMIT_COPY) in files and found.permit is None:
        yield f"{store.folder / PERMIT_COPY} is missing, so bake makes a new permit, and each node gets a new seed"
    for node in plan.nodes:
        path = f"{node.name}/{iso.USER_DATA}"
        if path in files and not store.has(path):
            yield f"{store.folder / path} is missing, so {node.name} gets new certificates and keys"


def _kept_input(store: Store, spec: ClusterSpec) -> tuple[Artifact, ...]:
    raw = store.read(INPUT)
    if raw is None or str(INPUT) not in store.manifest():
        return ()
    user_input, _ = parse_input(raw.decode(), str(store.folder / INPUT))
    return (user_input.matching(spec).file,)


def _all_files(
    plan: ClusterPlan,
    found: Keyring,
    extras: tuple[Artifact, ...],
    seal: tuple[Artifact, ...],
    snapshot: tuple[Artifact, ...],
    *,
    now: datetime,
    passphrase: bytes | None,
    new_key: pki.NewKey,
    expiry: manifest.Expiry,
) -> Iterator[Artifact]:
    """Yield every file of the cluster's folder, and add the certificates to `expiry`.

    Issue missing certificates for one node at a time, to limit memory.
    """

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
    expiry["cluster"] = pki.ends(authorities.issuers)
    expiry[OPERATOR] = pki.ends({pki.Role.CLIENT: client})
    expiry |= {f"user {name}": pki.ends({pki.Role.CLIENT: users[pki.user_stem(name)]}) for name in found.users}
    yield from authorities.files()
    yield from operator_files(plan, trust, {str(pki.Role.CLIENT): client, **users})
    yield from seal
    for node, credentials in zip(plan.nodes, nodes, strict=True):
        expiry[node.name] = pki.ends(credentials)
        yield from node_files(plan, node, trust, credentials, extras, sealed=bool(seal), snapshot=snapshot)


def _limited_by_ca(plan: ClusterPlan, store: Store, days: int) -> str:
    limited = f"new certificates are valid for {days} days instead of {plan.spec.pki.leaf_days} days"
    text = f"the CA expires in {days} days, so {limited}"
    return f"warning: {text}\n  hint: to give a running cluster a new CA, run {command(store, 'certs rotate --ca')}"


def _request_certificates(store: Store, signed: Signed, user_input: tuple[Artifact, ...]) -> NoReturn:
    """Write certificate requests and, for a new cluster, the user's input. Then raise UnsignedError."""
    identity = Artifact(IDENTITY, f"{signed.keyring.identity or secrets.token_hex(16)}\n".encode())
    with store.replacing() as folder:
        for artifact in (identity, *signed.files, *(() if str(SPEC) in store.manifest() else user_input)):
            folder.write(artifact)
        folder.keep_others()
    raise unsigned(store, len(signed.missing), then="the same command again")


def check(spec: ClusterSpec, store: Store, *, now: datetime, passphrase: bytes | None = None) -> None:
    """Raise InputError with every problem that would stop `bake`. Write nothing."""
    problems: list[Problem] = []
    for look in (
        lambda: check_clock(now),
        lambda: read_archive(spec.install),
        store.check,
        lambda: _check_certificates(store, plan_cluster(spec), now, passphrase),
    ):
        try:
            look()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))


def _check_certificates(store: Store, plan: ClusterPlan, now: datetime, passphrase: bytes | None) -> None:
    found = load_keyring(store, plan, now=now, passphrase=passphrase, again=command(store, ""))
    collect_issued(store, plan, found, now=now)


def check_clock(now: datetime) -> None:
    """Raise InputError if this machine's clock is wrong, because nodes would refuse the certificates."""
    rule = None
    if now < RELEASED:
        rule = f"before {RELEASED:%Y-%m-%d}, the release date of this bake"
    elif now.year > 9899:  # a CA that is valid for 100 years would expire after the year 9999
        rule = "after 9899"
    if rule:
        raise InputError.one("this machine's clock", f"{now:%Y-%m-%d} is {rule}", "set the clock")


def _not_valid_yet(begins: datetime, now: datetime) -> str:
    """Return a warning: either a certificate is not valid yet, or this machine's clock is wrong."""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    certificate = f"a certificate in the folder is valid only from {begins:%Y-%m-%d %H:%M}, so bake replaces it"
    return f"{clock}, but {certificate}. If the clock is wrong, the new certificates expire too early"
