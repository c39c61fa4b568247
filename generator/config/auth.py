"""The section `auth` of a cluster file: etcd's users and roles.

The common name of a user's certificate is the user's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import Finding, duplicates, list_of, scalar, section_of, setting

ROOT = "root"  # etcd's role with all rights; etcd enables auth only if a user `root` has it
UNAUTHORIZED_CLIENT = "nobody"  # common name without an etcd user; bake verify tests that etcd refuses it
# Common names that an etcd user cannot have.
RESERVED_NAMES = (ROOT, UNAUTHORIZED_CLIENT, "etcd-client", "etcd-server", "etcd-peer")


class Access(StrEnum):
    READ = "read"
    WRITE = "write"
    READWRITE = "readwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionSpec:
    """Access to one key, or to all keys with a prefix."""

    access: Access = setting(
        scalar(values.word(Access)), f"permitted access: {', '.join(Access)}", default=Access.READWRITE
    )
    prefix: str | None = setting(
        scalar(values.key), "a prefix of etcd keys, such as /registry/; set either prefix or key", default=None
    )
    key: str | None = setting(
        scalar(values.key), "a single etcd key, such as /config; set either prefix or key", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    name: str = setting(scalar(values.account), "the role's name, such as kubernetes")
    permissions: tuple[PermissionSpec, ...] = setting(
        list_of(section_of(PermissionSpec)),
        "the role's permissions; each permission needs prefix or key, but not both",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpec:
    name: str = setting(
        scalar(values.account), "the user's name and the common name of the user's certificate, such as kube-apiserver"
    )
    roles: tuple[str, ...] = setting(
        list_of(scalar(values.account)), f"the user's roles; the role {ROOT} has all rights", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSpec:
    enabled: bool = setting(
        scalar(values.flag), "enable etcd authentication; the short form is `auth: true`", default=False
    )
    users: tuple[UserSpec, ...] = setting(
        list_of(section_of(UserSpec)),
        "etcd's users; bake adds the nodes and the operator, which have all rights",
        default=(),
    )
    roles: tuple[RoleSpec, ...] = setting(list_of(section_of(RoleSpec)), "roles that users can have", default=())

    @property
    def common_names(self) -> tuple[str, ...]:
        """The common names of the client certificates that belong neither to a node nor to the operator."""
        return (*(user.name for user in self.users), UNAUTHORIZED_CLIENT) if self.enabled else ()


def check_auth(auth: AuthSpec, nodes: Sequence[str]) -> Iterator[Finding]:
    """Check the rules between the fields of the section, and between the users and the names of the nodes."""
    for field, accounts in (("users", auth.users), ("roles", auth.roles)):
        if accounts and not auth.enabled:
            yield ("auth", field), "has no effect while auth.enabled is false", "set enabled: true"
        for index, first in duplicates([account.name for account in accounts]):
            message = f"{accounts[index].name!r} is already the name of auth.{field}[{first}]"
            yield ("auth", field, index, "name"), message, "use another name"
    for index, name in enumerate(nodes if auth.enabled else ()):
        if name in RESERVED_NAMES:
            message = f"{name!r} is reserved: with auth, each node is an etcd user with the node's name"
            yield ("nodes", index, "name"), message, "rename the node"
    for index, user in enumerate(auth.users):
        if user.name in RESERVED_NAMES or user.name in nodes:
            what = "the name of a node" if user.name in nodes else "reserved"
            yield ("auth", "users", index, "name"), f"{user.name!r} is {what}", "use another name"
        for place, role in enumerate(user.roles):
            if role not in (ROOT, *(each.name for each in auth.roles)):
                message = f"there is no role {role!r}"
                yield ("auth", "users", index, "roles", place), message, f"use a role in auth.roles, or the role {ROOT}"
    for index, stated in enumerate(auth.roles):
        if stated.name == ROOT:
            yield ("auth", "roles", index, "name"), f"{ROOT!r} is etcd's built-in role", "use another name"
        for place, permission in enumerate(stated.permissions):
            yield from _permission(("auth", "roles", index, "permissions", place), permission)


def _permission(path: tuple[str | int, ...], permission: PermissionSpec) -> Iterator[Finding]:
    if (permission.prefix is None) == (permission.key is None):
        what = "has neither prefix nor key" if permission.key is None else "has both prefix and key"
        yield path, what, "set one of the two"
