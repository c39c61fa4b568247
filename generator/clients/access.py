"""The access to keys that an application needs, and whether the users and roles of the cluster file permit it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from generator.clients.application import Kind
from generator.config import yaml12
from generator.config.auth import RESERVED_NAMES, ROOT, Access, AuthSpec, PermissionSpec
from generator.config.values import account
from generator.errors import Problem
from generator.plan import ClusterPlan

# The kube-apiserver compacts etcd with a key outside its prefix (`compactRevKey` in the apiserver's compact.go).
_NEEDS: dict[Kind, tuple[PermissionSpec, ...]] = {
    Kind.KUBERNETES: (PermissionSpec(prefix="/registry/"), PermissionSpec(key="compact_rev_key")),
    Kind.PATRONI: (PermissionSpec(prefix="/service/"),),
}
_ROLES = {Kind.KUBERNETES: "kubernetes", Kind.PATRONI: "patroni"}  # the names of roles in hints


def has_common_name(kind: Kind) -> bool:
    """Return whether an application's certificate has a common name.

    Patroni uses etcd's JSON gateway. With authentication, the gateway refuses certificates with a common name.
    """
    return kind is not Kind.PATRONI


def check_name(plan: ClusterPlan, name: str) -> Iterator[Problem]:
    """Yield the reason why an application cannot have this name."""
    nodes = [node.name for node in plan.nodes]
    try:
        account(name)
    except ValueError as error:
        yield Problem("NAME", str(error), "use another name")
    else:
        if name in RESERVED_NAMES or name in nodes:
            what = "the name of a node" if name in nodes else "reserved"
            yield Problem("NAME", f"{name!r} is {what}, and such a client may have all rights", "use another name")


def check_access(auth: AuthSpec, name: str, kind: Kind) -> Iterator[Problem]:
    """Yield the reasons why etcd's authentication refuses what an application needs."""
    if not auth.enabled:
        return
    needs = _NEEDS.get(kind, ())
    roles = {role.name: role.permissions for role in auth.roles}
    user = next((user for user in auth.users if user.name == name), None)
    if kind is Kind.PATRONI:
        if user:
            text = f"{name!r} is a user of the cluster file, whose users have no password; Patroni needs a password"
            yield Problem("auth.users", text, "remove the user from the cluster file, or use another NAME")
        if not any(not _missing(needs, permissions) for permissions in roles.values()):
            text = f"no role permits {_listed(needs)}, which Patroni needs"
            yield Problem("auth.roles", text, _hint(name, kind))
    elif kind is not Kind.PROMETHEUS and user is None:
        text = f"etcd's authentication is on, and the cluster file has no user {name!r}"
        yield Problem("auth.users", text, _hint(name, kind))
    elif user and ROOT not in user.roles:
        missing = _missing(needs, [each for role in user.roles for each in roles.get(role, ())])
        if missing:
            text = f"the roles of the user {name!r} do not permit {_listed(missing)}"
            yield Problem("auth.roles", text, _hint(name, kind))


def role_for(auth: AuthSpec, kind: Kind) -> str | None:
    """Return the name of the first role that permits what an application needs, or None."""
    return next((role.name for role in auth.roles if not _missing(_NEEDS.get(kind, ()), role.permissions)), None)


def _missing(needs: Sequence[PermissionSpec], granted: Iterable[PermissionSpec]) -> list[PermissionSpec]:
    granted = list(granted)
    return [need for need in needs if not any(_covers(each, need) for each in granted)]


def _covers(granted: PermissionSpec, need: PermissionSpec) -> bool:
    if granted.access is not Access.READWRITE:
        return False
    if granted.prefix is not None:
        return (need.prefix or need.key or "").startswith(granted.prefix)
    return need.key is not None and granted.key == need.key


def _listed(permissions: Iterable[PermissionSpec]) -> str:
    parts = (f"the prefix {each.prefix}" if each.prefix else f"the key {each.key}" for each in permissions)
    return "reading and writing " + " and ".join(parts)


def _hint(name: str, kind: Kind) -> str:
    role = _ROLES.get(kind, "app")
    needs = _NEEDS.get(kind) or (PermissionSpec(prefix="/app/"),)
    permissions = ", ".join(f"{{prefix: {each.prefix}}}" if each.prefix else f"{{key: {each.key}}}" for each in needs)
    quoted = yaml12.dump(name).splitlines()[0]  # a name such as 7 needs quotes
    user = "" if kind is Kind.PATRONI else f"users: [{{name: {quoted}, roles: [{role}]}}], "
    text = f"auth: {{enabled: true, {user}roles: [{{name: {role}, permissions: [{permissions}]}}]}}"
    return f"add this to the cluster file, and run `bake apply --config FILE`: {text}"
