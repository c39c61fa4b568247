"""The story of each command, top to bottom; the details live in the modules it calls."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NoReturn

from generator import RELEASED, pki, render, seed, yaml12
from generator.archive import read_archive
from generator.artifact import Artifact
from generator.authorities import Authorities, Authority, kept_authority, key_path, pem_path
from generator.errors import InputError, Problem, UnsignedError
from generator.fields import plain
from generator.host.store import Store
from generator.keyring import IDENTITY, Keyring, load_keyring
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.render import Trust
from generator.signing import REQUESTS, Signed, sign_elsewhere
from generator.spec import ClusterSpec

Report = Callable[[str], None]
SEALED = PurePosixPath("sealed")  # while it is there, nothing that is baked may start a cluster


@dataclass(frozen=True, slots=True)
class Baked:
    """A baked cluster: its plan, its folder, and the files that this run changed."""

    plan: ClusterPlan
    folder: Path
    changed: tuple[str, ...]


def bake(
    spec: ClusterSpec,
    store: Store,
    *,
    now: datetime,
    report: Report,
    passphrase: bytes | None = None,
    renew: Collection[str] = (),
    change: Callable[[Authorities], Authorities] = lambda found: found,
) -> Baked:
    """Make everything a cluster needs to boot, and write it below the store's folder.

    `passphrase`: what the CA's key is encrypted with, or is to be. The nodes in `renew` get new certificates even where
    theirs are still good; what all nodes share is new for all. `change`: of the CAs that there are.
    """
    check_clock(now)
    plan = plan_cluster(spec)
    extras = read_archive(spec.install)
    store.check()
    with store.locked(report):
        store.check()
        found = load_keyring(store, plan, now=now, passphrase=passphrase, change=change)
        if found.begins and found.begins > now:
            report(f"warning: {_two_clocks(found.begins, now)}")
        found = found.without(plan, renew)
        signed = sign_elsewhere(store, plan, found, now=now)
        if signed.missing:
            _ask(store, signed)
        found, sealed = signed.keyring, load_seal(store)
        count = pki.count_missing(
            plan, found.authorities.issuers, now=now, client=found.client, kept=found.nodes, users=found.users
        )
        with (
            pki.keys_ahead(spec.pki.key_type, count, workers=os.cpu_count() or 1) as new_key,
            store.replacing() as folder,
        ):
            work = _everything(
                plan, found, extras, sealed, store.folder, now=now, passphrase=passphrase, new_key=new_key
            )
            for artifact in chain(signed.files, work):
                folder.write(artifact)
            for path in signed.taken:
                folder.leave_behind(path)
    return Baked(plan, store.folder, tuple(folder.changed))


def _everything(
    plan: ClusterPlan,
    found: Keyring,
    extras: tuple[Artifact, ...],
    sealed: tuple[Artifact, ...],
    folder: Path,
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
    yield from operator_files(plan, trust, {str(pki.Role.CLIENT): client, **users}, folder)
    yield from sealed
    for node, credentials in zip(plan.nodes, nodes, strict=True):
        yield from node_files(plan, node, trust, credentials, extras, sealed=bool(sealed))


def _ask(store: Store, signed: Signed) -> NoReturn:
    """Leave requests beside what is there. Raises UnsignedError, always."""
    identity = Artifact(IDENTITY, f"{signed.keyring.identity or secrets.token_hex(16)}\n".encode())
    with store.replacing() as folder:
        for artifact in (identity, *signed.files):
            folder.write(artifact)
        folder.keep_others()
    raise UnsignedError(
        f"{len(signed.missing)} certificates are to be issued by a CA whose key is not here",
        hint=f"have each .csr below {store.folder / REQUESTS} signed, put its certificate beside it (etcd-peer.csr: "
        "etcd-peer.pem), then the same command again",
    )


def seal(store: Store, plan: ClusterPlan, *, now: datetime, report: Report) -> bool:
    """Take the permit off the first node's medium, for good and in one step; False if that was done already.

    The ISO's other files stay as they are: what the node was configured with must not change by this.
    """
    first = next(node for node in plan.nodes if node.bootstrap)
    permit, iso = PurePosixPath(first.name) / seed.PERMIT, PurePosixPath(first.name) / seed.SEED_ISO
    with store.locked(report):
        store.check()
        mark = load_seal(store)
        image = store.read(iso)
        if image is None or hashlib.sha256(image).hexdigest() != store.manifest().get(str(iso), {}).get("sha256"):
            text = "is missing" if image is None else "is not as it was baked"
            raise InputError.one(str(store.folder / iso), text, "bake again, then: bake seal")
        files = seed.unpack(image, where=str(store.folder / iso))
        kept = [file for file in files if file.path != seed.PERMIT]
        if mark and len(kept) == len(files) and store.read(permit) is None:
            return False
        with store.replacing() as folder:
            packed = seed.pack(kept)
            folder.write(Artifact(iso, packed.data, packed.mode, packed.secret))
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
    files = seed.seed_files(plan, node, render.guest_files(plan, node, trust, credentials))
    if node.bootstrap and not sealed:
        files += (Artifact(seed.PERMIT, f"{render.permit(plan, trust.identity)}\n".encode()),)
    for file in (*files, seed.pack((*files, *extras))):
        yield Artifact(node.name / file.path, file.data, file.mode, file.secret)


def operator_files(
    plan: ClusterPlan, trust: Trust, clients: Mapping[str, pki.Credential], folder: Path
) -> Iterator[Artifact]:
    """What the operator keeps: client certificates, the resolved spec, an environment for etcdctl, and which cluster
    this is."""
    for stem, client in clients.items():
        yield Artifact(pem_path(stem), client.cert_pem)
        yield Artifact(key_path(stem), client.key_pem, mode=0o600, secret=True)
    yield Artifact(IDENTITY, f"{trust.identity}\n".encode())
    spec = plain(plan.spec)
    yield Artifact(PurePosixPath("cluster.yaml"), yaml12.dump(spec).encode())
    yield Artifact(PurePosixPath("etcdctl.env"), _etcdctl_env(plan, folder))


def _etcdctl_env(plan: ClusterPlan, folder: Path) -> bytes:
    values = {
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": ",".join(node.client_url for node in plan.nodes),
        "ETCDCTL_CACERT": str(folder / pem_path(pki.Role.CA)),
        "ETCDCTL_CERT": str(folder / pem_path(pki.Role.CLIENT)),
        "ETCDCTL_KEY": str(folder / key_path(pki.Role.CLIENT)),
    }
    return b"".join(os.fsencode(f"export {name}={shlex.quote(value)}\n") for name, value in values.items())


def load_seal(store: Store) -> tuple[Artifact, ...]:
    """The mark of a cluster that was sealed, as it is: it is enough that it is there."""
    mark = store.read(SEALED)
    return () if mark is None else (Artifact(SEALED, mark),)
