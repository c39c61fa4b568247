"""The section `auth` of a cluster file: etcd's users and roles. A certificate's common name is the user name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import list_of, one, section_of, setting

ROOT = "root"  # etcd's role with all rights, and the user that must have this role before etcd enables auth
NOBODY = "nobody"  # the common name of a certificate without a user, for bake verify
# Common names with another meaning.
RESERVED_NAMES = (ROOT, NOBODY, "etcd-client", "etcd-server", "etcd-peer")


class Access(StrEnum):
    READ = "read"
    WRITE = "write"
    READWRITE = "readwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionSpec:
    """Access to one key, or to all keys with a prefix."""

    access: Access = setting(one(values.word(Access)), f"one of {', '.join(Access)}", default=Access.READWRITE)
    prefix: str | None = setting(one(values.key), "a prefix of keys, such as /registry/; set this or key", default=None)
    key: str | None = setting(one(values.key), "a single key, such as /config; set this or prefix", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    name: str = setting(one(values.account), "the role's name, such as kubernetes")
    permissions: tuple[PermissionSpec, ...] = setting(
        list_of(section_of(PermissionSpec)),
        "the role's permissions: each has access, and either prefix or key",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpec:
    name: str = setting(one(values.account), "the user's name, such as kube-apiserver; its certificate's common name")
    roles: tuple[str, ...] = setting(
        list_of(one(values.account)), f"the user's roles; {ROOT} may do everything", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSpec:
    enabled: bool = setting(one(values.flag), "enable etcd authentication (shorthand: auth: true)", default=False)
    users: tuple[UserSpec, ...] = setting(
        list_of(section_of(UserSpec)),
        "users in addition to the nodes and the operator, who may do everything",
        default=(),
    )
    roles: tuple[RoleSpec, ...] = setting(list_of(section_of(RoleSpec)), "roles that users can have", default=())

    @property
    def common_names(self) -> tuple[str, ...]:
        """The common names of further client certificates, in addition to the nodes' and the operator's."""
        return (*(user.name for user in self.users), NOBODY) if self.enabled else ()
