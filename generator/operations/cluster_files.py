"""The files of a cluster's folder that bake makes from a plan and certificates: of each node, and of the operator."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from generator import pki
from generator.artifact import Artifact
from generator.config import yaml12
from generator.config.fields import plain
from generator.layout import CLIENTS, IDENTITY, PERMIT_COPY, SEALED, SPEC, key_path, pem_path
from generator.pki import Role
from generator.plan import ClusterPlan, NodePlan
from generator.seed import guest_files, iso
from generator.seed.guest_files import Trust
from generator.store.folder import Store

# bash stores the sourced file's name in BASH_SOURCE. If BASH_SOURCE is empty, the script searches the open files of the
# shell for etcdctl.env: a shell reads a sourced file through a descriptor of 10 or higher. In a subshell, $$ is the
# process id of the parent shell. /proc/self/stat starts with the process id of the subshell itself.
_FIND_FOLDER = """\
# etcdctl's settings for this cluster. Source this file in sh or bash. You can move the folder that contains this file.
bake_file=${BASH_SOURCE-}
if [ -z "$bake_file" ]; then
    read -r bake_pid bake_rest </proc/self/stat || :
    for bake_open in /proc/"$bake_pid"/fd/[1-9][0-9]*; do
        case $(readlink "$bake_open") in */etcdctl.env) bake_file=$bake_open ;; esac
    done
    bake_file=$(readlink "$bake_file")
fi
bake_folder=$(CDPATH='' cd -- "$(dirname -- "$bake_file")" 2>/dev/null && pwd -P)
if [ ! -f "$bake_folder/pki/etcd-ca.pem" ]; then
    echo "etcdctl.env: cannot find the cluster's files: keep this file, with its name, in the cluster's folder" >&2
    unset bake_file bake_folder bake_open bake_pid bake_rest
    return 1
fi
"""


def node_files(
    plan: ClusterPlan,
    node: NodePlan,
    trust: Trust,
    credentials: pki.NodePki,
    extras: tuple[Artifact, ...],
    *,
    sealed: bool,
    snapshot: tuple[Artifact, ...] = (),
) -> Iterator[Artifact]:
    """Yield a node's seed files and ISO. Until the cluster is sealed, the first node gets the permit and a snapshot."""
    files = iso.seed_files(plan, node, guest_files.guest_files(plan, node, trust, credentials))
    if node.bootstrap and not sealed:
        files += (Artifact(iso.SEED_PERMIT, f"{trust.permit}\n".encode(), mode=0o600, secret=True), *snapshot)
    for file in (*files, iso.pack((*files, *extras))):
        yield Artifact(node.name / file.path, file.data, file.mode, file.secret)


def operator_files(plan: ClusterPlan, trust: Trust, clients: Mapping[str, pki.Credential]) -> Iterator[Artifact]:
    """Yield the operator's files: certificates, spec, etcdctl.env, cluster id, and a copy of the bootstrap permit."""
    for stem, client in clients.items():
        yield Artifact(pem_path(stem), client.cert_pem)
        yield Artifact(key_path(stem), client.key_pem, mode=0o600, secret=True)
    yield Artifact(IDENTITY, f"{trust.identity}\n".encode())
    yield Artifact(PERMIT_COPY, f"{trust.permit}\n".encode(), mode=0o600, secret=True)
    yield Artifact(SPEC, yaml12.dump(plain(plan.spec)).encode())
    yield Artifact(PurePosixPath("etcdctl.env"), etcdctl_env(plan))


def etcdctl_env(plan: ClusterPlan) -> bytes:
    """Return the content of etcdctl.env."""
    endpoints = shlex.quote(",".join(node.client_url for node in plan.nodes))
    values = {
        "API": "3",
        "ENDPOINTS": endpoints,
        "CACERT": f'"$bake_folder/pki/{Role.CA}.pem"',
        "CERT": f'"$bake_folder/pki/{Role.CLIENT}.pem"',
        "KEY": f'"$bake_folder/pki/{Role.CLIENT}.key"',
    }
    exports = "".join(f"export ETCDCTL_{name}={value}\n" for name, value in values.items())
    return f"{_FIND_FOLDER}{exports}unset bake_file bake_folder bake_open bake_pid bake_rest\n".encode()


def load_seal(store: Store) -> tuple[Artifact, ...]:
    """Return the file `sealed`, which marks a cluster as sealed, or an empty tuple if the cluster is not sealed."""
    content = store.read(SEALED)
    return () if content is None else (Artifact(SEALED, content),)


def kept_snapshot(store: Store) -> tuple[Artifact, ...]:
    """Return the snapshot that the first node of a cluster that has not started yet shall restore."""
    names = (iso.SEED_SNAPSHOT, iso.SEED_SNAPSHOT_RECORD)
    paths = [path for path in map(PurePosixPath, store.manifest()) if PurePosixPath(path.name) in names]
    found = {path.name: data for path in paths if (data := store.read(path)) is not None}
    return tuple(Artifact(name, found[str(name)], mode=0o600, secret=True) for name in names if str(name) in found)


def kept_clients(store: Store) -> Iterator[Artifact]:
    """Yield all files of the applications as they are."""
    for name, entry in store.manifest().items():
        path = PurePosixPath(name)
        if path.is_relative_to(CLIENTS) and (data := store.read(path)) is not None:
            mode = int(entry["mode"], 8)
            yield Artifact(path, data, mode=mode, secret=mode == 0o600)
