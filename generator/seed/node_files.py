"""The files that a seed writes on its node, with the owners and modes that they have after the first boot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from generator.config.pki import Permissions
from generator.config.spec import ClusterSpec
from generator.pki import NODE_ROLES, Role
from generator.seed.contents import order_of
from generator.seed.guest.usr.libexec.bake.seed_change import File, Seed
from generator.seed.guest_paths import PKI_DIR

_PRIVATE = b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """A file on a node. `acl`: the entries of the file's access control list, besides owner, group and others."""

    path: str
    mode: int
    owner: str
    acl: tuple[str, ...]
    content: bytes

    @property
    def is_private(self) -> bool:
        """Whether the file has a private key."""
        return _PRIVATE in self.content


def node_files(seed: Seed, spec: ClusterSpec) -> list[NodeFile]:
    """Return the files of a seed in the order of user-data."""
    paths = sorted(seed.files, key=lambda path: order_of(PurePosixPath(path)))
    return [_node_file(PurePosixPath(path), seed.files[path], spec) for path in paths]


def _node_file(path: PurePosixPath, file: File, spec: ClusterSpec) -> NodeFile:
    """Return a file as the commands of the first boot and etcd-access.service leave it."""
    owner, mode = "root", file.mode
    if path.parent == PKI_DIR and spec.pki.permissions is Permissions.OWNER:
        owner, mode = "etcd", 0o400
    acl = tuple(_acl(path.name, spec)) if path.parent == PKI_DIR else ()
    if acl:
        mode |= 0o040  # setfacl puts the ACL's mask into the group's bits
    return NodeFile(path=str(path), mode=mode, owner=owner, acl=acl, content=file.content)


def _acl(name: str, spec: ClusterSpec) -> Iterator[str]:
    """Yield the entries that `access_commands` adds to a file in the folder with the keys."""
    if spec.pki.permissions is Permissions.ACL and name in {f"{role}.key" for role in NODE_ROLES}:
        yield "u:etcd:r"
    if name in (f"{Role.CA}.pem", f"{Role.CLIENT}.pem", f"{Role.CLIENT}.key"):
        yield from (f"u:{reader}:r" for reader in spec.access.readers)
