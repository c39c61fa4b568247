"""Generate a guest's files from the node's plan and certificates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import PurePosixPath

from generator.artifact import Artifact
from generator.config.auth import ROOT, PermissionSpec
from generator.config.etcd_options import variable
from generator.config.fields import value_text
from generator.config.pki import Certificates, PeerName, Permissions
from generator.config.spec import ClusterSpec, FirewallKind, InstallMethod
from generator.config.values import SUBNET
from generator.pki import NODE_ROLES, NodePki, Role, issuer_of, peer_check
from generator.plan import JOURNAL_FIELDS, JOURNAL_PORT, ClusterPlan, NodePlan, short_id
from generator.seed.file_levels import TABLE, level_table
from generator.seed.guest_paths import (
    AUTH,
    CONF,
    DATA_MOUNT,
    ENV,
    LIBEXEC,
    PKI_DIR,
    RESTART,
    ROOT_SHELL,
    RUNTIME_PERMIT,
    SNAPSHOT,
    SNAPSHOT_RECORD,
    SSH_KEYS,
    SSHD_CONF,
    UDEV_RULES,
    UNITS,
)
from generator.seed.templates import guest_source, render


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The cluster's identity, bootstrap permit and CAs.

    `identity`: 32 or more hexadecimal digits that identify the cluster and never change. `permit`: a secret that the
    first node needs to start the cluster; "" if there is no permit. The guest files have only the permit's digest.
    `ca_pem`: one CA certificate, or two CA certificates in the first two phases of a CA change. `peer_ca_pem`: the
    certificates of the separate peer CA, or None.
    """

    identity: str
    permit: str = field(default="", repr=False)
    ca_pem: bytes
    peer_ca_pem: bytes | None = None


def guest_files(plan: ClusterPlan, node: NodePlan, trust: Trust, pki: NodePki) -> Iterator[Artifact]:
    """Yield the files that cloud-init writes (`write_files`). cloud-init makes root the owner of every file."""
    if plan.spec.firewall.kind is not FirewallKind.NONE:
        yield _script("etcd-firewall")
        yield _unit("etcd-firewall.service", kind=plan.spec.firewall.kind)
    yield Artifact(_in_pki(f"{Role.CA}.pem"), trust.ca_pem)
    if trust.peer_ca_pem:
        yield Artifact(_in_pki(f"{Role.PEER_CA}.pem"), trust.peer_ca_pem)
    for role in NODE_ROLES:
        yield Artifact(_in_pki(f"{role}.pem"), pki[role].cert_pem)
        yield Artifact(_in_pki(f"{role}.key"), pki[role].key_pem, mode=0o600, secret=True)
    if plan.spec.install.method is InstallMethod.ARCHIVE:
        yield _script("etcd-install")
    # Mode 0600 is enough for etcd.conf and bake.env, because systemd reads both files as root (CIS benchmark, 1.1.7).
    yield Artifact(CONF, _conf(plan, node, trust.identity), mode=0o600)
    yield Artifact(ENV, env_file(hook_values(plan, node, trust.identity, trust.permit)), mode=0o600)
    start = {"permit": RUNTIME_PERMIT, "snapshot": SNAPSHOT, "snapshot_record": SNAPSHOT_RECORD}
    yield _unit("etcd-access.service", commands=tuple(access_commands(plan.spec)), **start)
    places = {"binary_dir": plan.binary_dir, "data_dir": plan.spec.etcd.data_dir, **start}
    yield _unit("etcd.service", user="etcd", restart=RESTART, data_disk=plan.mounts_data_disk, **places)
    if plan.mounts_data_disk:
        yield _script("etcd-data")
        yield _unit("etcd-data.service")
        yield _copy(UNITS, DATA_MOUNT)
    for module in ("join_decision.py", "node.py", "cluster.py", "peers.py", "restore.py"):
        yield _copy(LIBEXEC, module)
    yield _script("etcd-join")
    yield _script("etcd-start")
    yield _script("read-journal")
    yield _script("etcd-failed")
    yield _script("journal-copy")
    yield _unit("journal-copy.service", port=JOURNAL_PORT, fields=JOURNAL_FIELDS)
    yield _script("etcd-promote")
    yield _unit("etcd-promote.service", auth=plan.spec.auth.enabled)
    if plan.spec.auth.enabled:
        yield _script("etcd-auth")
        yield Artifact(AUTH, accounts(plan))
    yield _script("etcd-audit")
    yield _unit("etcd-audit.service")
    yield _unit("etcd-report.service")
    yield _copy(UNITS, "etcd-audit.timer")
    yield _script("first-boot-done")
    yield _unit("report-boot.service")
    for name in ("forget-seed", "apply-seed"):
        yield _script(name)
        yield _unit(f"{name}.service")
    for module in ("seed_change.py", "seed_files.py"):
        yield _copy(LIBEXEC, module)
    yield Artifact(TABLE, level_table())
    yield _script("etcd-restart")
    yield _unit("etcd-restart.service", mark=RESTART)
    yield from _access(plan.spec)
    yield _copy(UNITS, "run-bake-medium.mount")
    yield _copy(UDEV_RULES, "80-bake-seed.rules")


@cache
def _in_pki(name: str) -> PurePosixPath:
    return PKI_DIR / name


def _access(spec: ClusterSpec) -> Iterator[Artifact]:
    """Yield files that let a person in. The script `bootcmd` removes files of an older seed that has them."""
    if spec.access.ssh_keys:
        yield Artifact(SSH_KEYS, "".join(f"{key}\n" for key in spec.access.ssh_keys).encode(), mode=0o600)
        yield Artifact(SSHD_CONF, guest_source(SSHD_CONF))
    if spec.access.root_shell:
        yield _copy(UNITS, ROOT_SHELL)


def access_commands(spec: ClusterSpec) -> Iterator[str]:
    """Yield shell commands that set the ACLs of the folder with the keys.

    etcd-access.service runs the commands before every start of etcd. With the value `owner` of pki.permissions, the
    group etcd gets access to the folder if setfacl fails. If an account in access.readers does not exist, the commands
    print a line and continue.
    """
    yield from key_access_commands(spec)
    files = f"{Role.CA}.pem {Role.CLIENT}.pem {Role.CLIENT}.key"
    for user in spec.access.readers:
        acl = f"setfacl -m u:{user}:x . && setfacl -m u:{user}:r {files}"
        yield f'cd {PKI_DIR} && {acl} || echo "access.readers: {user} cannot read the client certificate" >&2'


def key_access_commands(spec: ClusterSpec) -> Iterator[str]:
    """Yield shell commands that give etcd access to the folder with the keys, and no access to other accounts."""
    folder = f"setfacl --set u::rwx,u:etcd:x,g::-,o::- {PKI_DIR}"
    if spec.pki.permissions is Permissions.ACL:
        yield f"setfacl -m u:etcd:x {PKI_DIR.parent}"
        yield folder
        yield f"cd {PKI_DIR} && setfacl -m u:etcd:r {' '.join(f'{role}.key' for role in NODE_ROLES)}"
    else:
        yield f'{folder} || {{ chgrp "$(id -g etcd)" {PKI_DIR} && chmod 0750 {PKI_DIR}; }}'


def cluster_token(plan: ClusterPlan, identity: str) -> str:
    """Return the value of etcd's option `initial-cluster-token`, which is unique to the cluster by default."""
    return plan.spec.etcd.token or f"{plan.name}-{short_id(identity)}"


def cluster_id(plan: ClusterPlan, identity: str) -> str:
    """Return the cluster's id. Nodes compare ids to detect a node or a seed of another cluster. The id is no secret."""
    return f"{plan.name}-{identity[:32]}"


def hook_values(plan: ClusterPlan, node: NodePlan, identity: str, permit: str = "") -> dict[str, str]:
    """Return the environment variables for the scripts on the node."""
    spec = plan.spec
    everywhere = "::/0" if spec.network.subnet.version == 6 else "0.0.0.0/0"
    clients = " ".join(str(spec.network.subnet if one == SUBNET else one) for one in spec.firewall.client_cidrs)
    # Nodes need access to the client port, because a joining node requests the member list there.
    nodes = " ".join(str(other.address) for other in plan.nodes)
    values = {
        "BAKE_NAME": node.name,
        "BAKE_PEER_URL": node.peer_url,
        "BAKE_CLIENT_URL": node.client_url,
        "BAKE_MEMBERS": " ".join(f"{other.name}={other.peer_url}" for other in plan.nodes),
        "BAKE_CLIENT_URLS": " ".join(other.client_url for other in plan.nodes),
        "BAKE_BOOTSTRAP": "yes" if node.bootstrap else "no",
        "BAKE_TOKEN": cluster_token(plan, identity),
        # BAKE_PERMIT is the cluster's id. A node compares BAKE_PERMIT in its own bake.env with BAKE_PERMIT in a new
        # seed. Nodes with an older bake.env know only the name BAKE_PERMIT, so do not rename the variable.
        "BAKE_PERMIT": cluster_id(plan, identity),
        "BAKE_PERMIT_FILE": str(RUNTIME_PERMIT),
        "BAKE_SNAPSHOT": str(SNAPSHOT),
        **({"BAKE_PERMIT_SHA256": hashlib.sha256(permit.encode()).hexdigest()} if permit else {}),
        "BAKE_JOIN": str(spec.join),
        "BAKE_DATA_DIR": spec.etcd.data_dir,
        "BAKE_RUN_DIR": "/run/etcd",
        "BAKE_ETCDCTL": f"{plan.binary_dir}/etcdctl",
        "BAKE_FIREWALL": str(spec.firewall.kind),
        "BAKE_CLIENT_PORT": str(spec.etcd.client_port),
        "BAKE_PEER_PORT": str(spec.etcd.peer_port),
        "BAKE_CLIENT_CIDRS": f"{clients} {nodes}" if clients else everywhere,
        "BAKE_PEER_CIDRS": nodes,
        "ETCDCTL_API": "3",
        "ETCDCTL_CACERT": f"{PKI_DIR}/{Role.CA}.pem",
        "ETCDCTL_CERT": f"{PKI_DIR}/{Role.CLIENT}.pem",
        "ETCDCTL_KEY": f"{PKI_DIR}/{Role.CLIENT}.key",
    }
    if spec.auth.enabled:
        values["BAKE_AUTH"] = str(AUTH)
        # The common name of the server certificate. If it changes, the node restarts etcd (file_levels.py).
        values["BAKE_SERVER_NAME"] = str(Role.SERVER)
    if spec.install.archive:
        values["BAKE_ARCHIVE_NAME"] = ARCHIVE_NAME
        values["BAKE_ARCHIVE_SHA256"] = spec.install.sha256 or ""
    return values


def accounts(plan: ClusterPlan) -> bytes:
    """Return a JSON file with the users, roles and permissions that etcd-auth creates.

    Each node and the operator are etcd users with all rights. A user's name is the common name of the user's client
    certificate. etcd requires a user `root`, but no certificate has the common name `root`.
    """
    shared = plan.spec.pki.certificates is Certificates.SHARED
    admins = (ROOT, str(Role.CLIENT), *(() if shared else (node.name for node in plan.nodes)))
    users = {name: [ROOT] for name in admins} | {user.name: list(user.roles) for user in plan.spec.auth.users}
    roles = {role.name: [_permission(one) for one in role.permissions] for role in plan.spec.auth.roles}
    return json.dumps({"users": users, "roles": roles}).encode() + b"\n"


def _permission(permission: PermissionSpec) -> list[str]:
    """Return a permission as arguments of etcdctl, such as `--prefix=true read /registry/`."""
    flag = "--prefix=true" if permission.prefix else "--prefix=false"
    return [flag, str(permission.access), permission.prefix or permission.key or ""]


ARCHIVE_NAME = "etcd.tar.gz"  # the name of the etcd tarball on the ISO


def env_file(values: Mapping[str, str]) -> bytes:
    """Return a file for systemd's `EnvironmentFile=`.

    Raises ValueError if a value has characters that need escaping.
    """
    unfit = [name for name, value in values.items() if not value.isprintable() or set(value) & set('"\\$`')]
    if unfit:
        raise ValueError(f"values with characters that need escaping: {', '.join(unfit)}")
    return "".join(f'{name}="{value}"\n' for name, value in values.items()).encode()


def _conf(plan: ClusterPlan, node: NodePlan, identity: str) -> bytes:
    options = {variable(name): value_text(value) for name, value in plan.spec.etcd.options.items()}
    required = plan.spec.pki.peer_name is PeerName.REQUIRED
    option, name = peer_check(plan.spec)
    return render(
        CONF,
        node=node,
        etcd=plan.spec.etcd,
        token=cluster_token(plan, identity),
        pki_dir=PKI_DIR,
        peer_ca=issuer_of(plan.spec.pki, Role.PEER),
        peer_check=f'{variable(option)}="{name}"' if required else None,
        options=options,
    )


def _script(name: str) -> Artifact:
    return _copy(LIBEXEC, name, mode=0o755)


@cache
def _copy(folder: PurePosixPath, name: str, mode: int = 0o644) -> Artifact:
    return Artifact(folder / name, guest_source(folder / name), mode)


@lru_cache(maxsize=64)
def _unit(name: str, **values: Hashable) -> Artifact:
    return Artifact(UNITS / name, render(UNITS / name, libexec=LIBEXEC, **values))


def node_credentials(files: Mapping[str, bytes]) -> dict[Role, tuple[bytes, bytes]]:
    """Return a node's certificates and keys by role. `files`: the node's files by path."""
    paths = {role: (f"{PKI_DIR}/{role}.pem", f"{PKI_DIR}/{role}.key") for role in NODE_ROLES}
    return {role: (files[pem], files[key]) for role, (pem, key) in paths.items() if pem in files and key in files}
