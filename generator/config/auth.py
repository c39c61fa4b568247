"""The section `auth` of a cluster file: etcd's users and roles. A certificate's common name says whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import list_of, one, section_of, setting

ROOT = "root"  # etcd's own: the role that may do everything, and the user that must have it
NOBODY = "nobody"  # the common name of a certificate that is no user's, for bake verify
# Common names that say something else already.
RESERVED_NAMES = (ROOT, NOBODY, "etcd-client", "etcd-server", "etcd-peer")


class Access(StrEnum):
    READ = "read"
    WRITE = "write"
    READWRITE = "readwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionSpec:
    """What may be done with one key, or with all keys that begin alike."""

    access: Access = setting(one(values.word(Access)), f"one of {', '.join(Access)}", default=Access.READWRITE)
    prefix: str | None = setting(
        one(values.key), "what the keys begin with, such as /registry/; this or key", default=None
    )
    key: str | None = setting(one(values.key), "a single key, such as /config; this or prefix", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    name: str = setting(one(values.account), "the role's name, such as kubernetes")
    permissions: tuple[PermissionSpec, ...] = setting(
        list_of(section_of(PermissionSpec)), "what the role may do, a list of access and prefix or key", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpec:
    name: str = setting(one(values.account), "the user's name, such as kube-apiserver; its certificate's common name")
    roles: tuple[str, ...] = setting(
        list_of(one(values.account)), f"names of roles; {ROOT} may do everything", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSpec:
    enabled: bool = setting(one(values.flag), "enable etcd authentication (shorthand: auth: true)", default=False)
    users: tuple[UserSpec, ...] = setting(
        list_of(section_of(UserSpec)), "beside the nodes and the operator, who may do everything", default=()
    )
    roles: tuple[RoleSpec, ...] = setting(list_of(section_of(RoleSpec)), "what users may be allowed to do", default=())

    @property
    def common_names(self) -> tuple[str, ...]:
        """Whom bake makes a client certificate for, beside the nodes and the operator."""
        return (*(user.name for user in self.users), NOBODY) if self.enabled else ()
