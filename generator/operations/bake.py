"""The story of each command, top to bottom; the details live in the modules it calls."""

from __future__ import annotations

import hashlib
import json
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
from generator.config.load import load_kept
from generator.config.spec import ClusterSpec
from generator.config.user_input import Said, parse_said
from generator.errors import BakeError, InputError, Problem, StaleError
from generator.layout import IDENTITY, INPUT, PERMIT_COPY, SEALED, SPEC, key_path, pem_path
from generator.operations.etcdctl_env import etcdctl_env
from generator.pki.ca_phases import Authorities, Authority, kept_authority
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report
from generator.seed import guest_files, iso
from generator.seed.etcd_archive import read_archive
from generator.seed.guest_files import Trust
from generator.store.existing_keys import OPERATOR, Keyring, load_keyring
from generator.store.folder import Store
from generator.store.requests import Signed, sign_elsewhere, unsigned

Announce = Callable[[tuple[tuple[str, str], ...]], None]  # is given the files that will change, just before they do


@dataclass(frozen=True, slots=True)
class Baked:
    """A baked cluster: its plan, its folder, and the files that this run changed; `differences` has their signs, and
    what was removed."""

    plan: ClusterPlan
    folder: Path
    changed: tuple[str, ...]
    differences: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What the user said, and agreed to where it changes a cluster. `digest`: of the folder that it was compared with.

    `announce` takes the place of that of `bake`.
    """

    said: Said
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
    """Make everything a cluster needs to boot, and write it below the store's folder.

    `agreed`: left out, what was said earlier still holds, as far as the spec has it. Raises StaleError where the folder
    is another one by now. `passphrase`: what the CA's key is encrypted with, or is to be. The owners in `renew`
    (`pki.Wanted`) get new certificates even where theirs are still good; what all nodes share is new for all. The
    operator's is renewed before it ends. `change`: of the CAs that there are.
    """
    check_clock(now)
    extras = read_archive(spec.install)
    store.check()
    plan = plan_cluster(spec)
    with store.locked(report):
        store.check()
        if agreed and store.digest() != agreed.digest:
            raise StaleError(f"another run of bake has changed {store.folder} meanwhile", hint="the same command again")
        if agreed is None:
            _refuse_edited(store)
        said = (agreed.said.file,) if agreed else _kept_said(store, spec)
        found = load_keyring(store, plan, now=now, passphrase=passphrase, change=change)
        if found.begins and found.begins > now:
            report(f"warning: {_two_clocks(found.begins, now)}")
        ends = found.client_ends(plan, now)
        found = found.without(plan, [*renew, *([OPERATOR] if ends else [])])
        signed = sign_elsewhere(store, plan, found, now=now)
        if signed.missing:
            _ask(store, signed, said)
        found, sealed = signed.keyring, load_seal(store)
        issuers, there = found.authorities.issuers, (found.client, found.nodes, found.users)
        if (days := pki.days_cut_short(plan, issuers, *there, now=now)) is not None:
            report(_cut_short(plan, days))
        count = pki.count_missing(
            plan, found.authorities.issuers, now=now, client=found.client, kept=found.nodes, users=found.users
        )
        with (
            pki.keys_ahead(spec.pki.key_type, count, workers=os.cpu_count() or 1) as new_key,
            store.replacing() as folder,
        ):
            work = _everything(plan, found, extras, sealed, now=now, passphrase=passphrase, new_key=new_key)
            for artifact in chain(signed.files, said, work):
                folder.write(artifact)
            for path in signed.taken:
                folder.leave_behind(path)
            differences = folder.differences
            (agreed.announce if agreed else announce)(differences)
    if ends:
        report(f"the operator has a new certificate: the one before ends on {ends:%Y-%m-%d}")
    return Baked(plan, store.folder, tuple(folder.changed), differences)


def _refuse_edited(store: Store) -> None:
    """Raise InputError for an edited spec: a command that shows no changes must not make any that need consent."""
    manifest = store.manifest()
    for path in (SPEC, INPUT):
        raw, listed = store.read(path), manifest.get(str(path))
        if listed and raw is not None and hashlib.sha256(raw).hexdigest() != listed.get("sha256"):
            hint = "undo the change; to change the cluster: bake, with flags or --config FILE"
            raise InputError.one(str(store.folder / path), "is not as it was baked", hint)


def _kept_said(store: Store, spec: ClusterSpec) -> tuple[Artifact, ...]:
    raw = store.read(INPUT)
    if raw is None or str(INPUT) not in store.manifest():
        return ()
    said, _ = parse_said(raw.decode(), str(store.folder / INPUT))
    return (said.held_by(spec).file,)


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
    """Every file of a cluster's folder; what is still missing is made, one node after the other: memory stays flat."""

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


def _cut_short(plan: ClusterPlan, days: int) -> str:
    text = f"the CA ends in {days} days, and the certificates issued now with it, not after {plan.spec.pki.leaf_days}"
    return f"warning: {text}\n  hint: bake certs rotate --ca gives a running cluster a new CA"


def _ask(store: Store, signed: Signed, said: tuple[Artifact, ...]) -> NoReturn:
    """Leave requests beside what is there; for a new cluster, with what was said. Raises UnsignedError, always."""
    identity = Artifact(IDENTITY, f"{signed.keyring.identity or secrets.token_hex(16)}\n".encode())
    with store.replacing() as folder:
        for artifact in (identity, *signed.files, *(() if str(SPEC) in store.manifest() else said)):
            folder.write(artifact)
        folder.keep_others()
    raise unsigned(store, len(signed.missing), then=" the same command again")


def seal(store: Store, plan: ClusterPlan, *, now: datetime, report: Report) -> bool:
    """Take the permit off the first node's medium, for good and in one step; False if that was done already.

    The ISO's other files stay as they are: what the node was configured with must not change by this.
    """
    first = next(node for node in plan.nodes if node.bootstrap)
    permit, path = PurePosixPath(first.name) / iso.SEED_PERMIT, PurePosixPath(first.name) / iso.SEED_ISO
    with store.locked(report):
        store.check()
        if plan_cluster(load_kept(store.folder / SPEC)).nodes != plan.nodes:
            raise BakeError("another command has changed this cluster's nodes meanwhile", hint="bake seal")
        mark = load_seal(store)
        image = store.read(path)
        if image is None or hashlib.sha256(image).hexdigest() != store.manifest().get(str(path), {}).get("sha256"):
            text = "is missing" if image is None else "is not as it was baked"
            raise InputError.one(str(store.folder / path), text, "bake again, then: bake seal")
        files = iso.unpack(image, where=str(store.folder / path))
        kept = [file for file in files if file.path != iso.SEED_PERMIT]
        if mark and len(kept) == len(files) and store.read(permit) is None:
            return False
        with store.replacing() as folder:
            packed = iso.pack(kept)
            folder.write(Artifact(path, packed.data, packed.mode, packed.secret))
            for artifact in mark or (_seal_mark(first, now),):
                folder.write(artifact)
            folder.keep_others(permit)
    return True


def _seal_mark(node: NodePlan, now: datetime) -> Artifact:
    record = {"format_version": "1.0", "node": node.name, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return Artifact(SEALED, json.dumps(record, indent=1).encode() + b"\n")


def check(spec: ClusterSpec, store: Store, *, now: datetime, passphrase: bytes | None = None) -> None:
    """Find every reason why `bake` would refuse, and write nothing. Raises InputError with all of them."""
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
    sign_elsewhere(store, plan, load_keyring(store, plan, now=now, passphrase=passphrase), now=now)


def check_clock(now: datetime) -> None:
    """Refuse a clock that is certainly wrong: nodes whose clocks are right would find every certificate expired."""
    rule = None
    if now < RELEASED:
        rule = f"before {RELEASED:%Y-%m-%d}, the release date of this bake"
    elif now.year > 9899:  # caDays: at most 100 years
        rule = "after 9899"
    if rule:
        raise InputError.one("this machine's clock", f"{now:%Y-%m-%d} is {rule}", "set it; certificates have dates")


def _two_clocks(begins: datetime, now: datetime) -> str:
    """Describe a certificate from the future: this clock is behind, or that of an earlier bake was ahead."""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    certificate = f"but a certificate in the folder begins on {begins:%Y-%m-%d %H:%M}; it is replaced"
    return f"{clock}, {certificate}. If the clock is wrong, the new certificates end too early"


def node_files(
    plan: ClusterPlan,
    node: NodePlan,
    trust: Trust,
    credentials: pki.NodePki,
    extras: tuple[Artifact, ...],
    *,
    sealed: bool,
) -> Iterator[Artifact]:
    """One node's folder: the seed's files, the first node's permit, and the ISO made of them."""
    files = iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, credentials))
    if node.bootstrap and not sealed:
        files += (Artifact(iso.SEED_PERMIT, f"{trust.permit}\n".encode(), mode=0o600, secret=True),)
    for file in (*files, iso.pack((*files, *extras))):
        yield Artifact(node.name / file.path, file.data, file.mode, file.secret)


def operator_files(plan: ClusterPlan, trust: Trust, clients: Mapping[str, pki.Credential]) -> Iterator[Artifact]:
    """What the operator keeps: client certificates, the resolved spec, an environment for etcdctl, which cluster this
    is, and the permit: a node's ISO loses its copy when the cluster is sealed."""
    for stem, client in clients.items():
        yield Artifact(pem_path(stem), client.cert_pem)
        yield Artifact(key_path(stem), client.key_pem, mode=0o600, secret=True)
    yield Artifact(IDENTITY, f"{trust.identity}\n".encode())
    yield Artifact(PERMIT_COPY, f"{trust.permit}\n".encode(), mode=0o600, secret=True)
    spec = plain(plan.spec)
    yield Artifact(SPEC, yaml12.dump(spec).encode())
    yield Artifact(PurePosixPath("etcdctl.env"), etcdctl_env(plan))


def load_seal(store: Store) -> tuple[Artifact, ...]:
    """The mark of a cluster that was sealed, as it is: it is enough that it is there."""
    mark = store.read(SEALED)
    return () if mark is None else (Artifact(SEALED, mark),)
