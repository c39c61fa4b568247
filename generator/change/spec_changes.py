"""Compare the existing cluster with a new spec: nodes, users, fields and files.

A change that destroys something has a text in `lost` and needs the user's confirmation. If `lost` is empty, the change
needs no confirmation. `refused` lists the changes that no running cluster can apply.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from generator.config.field_levels import field_level, table
from generator.config.field_levels.row import FieldLevel
from generator.config.fields import plain, value_text
from generator.config.placement import node_hosts
from generator.config.spec import ClusterSpec
from generator.config.user_input import ExistingCluster, flat
from generator.errors import Problem
from generator.layout import MANIFEST, SPEC
from generator.level import Level
from generator.plan import ClusterPlan, NodePlan, plan_cluster


class Kind(StrEnum):
    """The kind of thing that a change affects: a node, a host, an etcd user, a field of the spec, or a file."""

    NODE = "node"
    HOST = "host"
    USER = "user"
    FIELD = "field"
    FILE = "file"


class Change(NamedTuple):
    """One change.

    `sign`: + for added, ~ for changed, - for removed. `part`: the changed attribute of a node. `old`, `new`: the values
    of fields and nodes, never the content of files. `note`: the operator's task before nodes apply the change.
    `rule`: the row of the table of field levels for this change; None for a file, for a node of an unknown spec, and
    for a cluster that is not sealed.
    """

    sign: str
    kind: Kind
    name: str
    part: str = ""
    old: Any = None
    new: Any = None
    lost: str = ""
    note: str = ""
    rule: FieldLevel | None = None

    def __str__(self) -> str:
        what = " ".join(filter(None, ("" if self.kind is Kind.FIELD else self.kind, self.name, self.part)))
        values = [value_text(value) for value in (self.old, self.new) if value is not None]
        return f"{self.sign} {what}{': ' if values else ''}{' → '.join(values)}"

    @property
    def level(self) -> Level | None:
        """What the change costs the nodes that stay; None without a rule."""
        return self.rule.level if self.rule else None

    @property
    def data(self) -> dict[str, Any]:
        values = {name: value for name in ("part", "old", "new") if (value := getattr(self, name)) not in (None, "")}
        level = {"level": str(self.level)} if self.level else {}
        lost = self.lost or None
        return {"change": self.sign, "kind": str(self.kind), "name": self.name, **values, **level, "lost": lost}


def compare(existing: ExistingCluster | None, new: ClusterSpec) -> tuple[Change, ...]:
    """Return the differences between the existing cluster and the spec `new`. Files are not compared.

    Without an existing cluster, the result is empty.
    """
    if existing is None:
        return ()
    plan, old = plan_cluster(new), existing.spec
    if old is None:
        gone = [
            Change(sign="-", kind=Kind.NODE, name=name, lost=_NODE_KEYS)
            for name in sorted(existing.nodes - {node.name for node in plan.nodes})
        ]
        return (*gone, *_unknown(existing, new))
    found = (
        *_nodes(plan_cluster(old), plan, keys=existing.nodes, sealed=existing.sealed),
        *_hosts(old, new),
        *_users(old, new),
        *_fields(old, new),
    )
    return found if existing.sealed else tuple(change._replace(rule=None) for change in found)


_NODE_KEYS = "its keys are deleted"
_USER_KEY = "its key is deleted"
_REQUEST_KEYS = "the private keys of the pending certificate requests are deleted"
_AUTH = "authentication is switched off, so every client of this cluster may read and write everything"
_DISKS = "its VM and its disks on the old host are deleted"
_OF_SEVERAL = {  # the same losses of several nodes or users
    _NODE_KEYS: "their keys are deleted",
    _USER_KEY: "their keys are deleted",
    _DISKS: "their VMs and their disks on the old hosts are deleted",
}
_MAC = "the members of this sealed cluster still use the old addresses"


def _unknown(existing: ExistingCluster, new: ClusterSpec) -> Iterator[Change]:
    if existing.has_requests and not new.pki.ca.certificate:
        yield Change(sign="-", kind=Kind.FILE, name="requests", lost=_REQUEST_KEYS)
    if not existing.is_known:
        lost = "this file was changed after bake wrote it; bake cannot compare it with the new spec"
        yield Change(sign="~", kind=Kind.FILE, name=str(SPEC), lost=lost)


def _nodes(old: ClusterPlan, new: ClusterPlan, *, keys: Iterable[str], sealed: bool) -> Iterator[Change]:
    before, after = ({node.name: node for node in plan.nodes} for plan in (old, new))
    for name in dict.fromkeys((*before, *sorted(keys))):
        if name not in after:
            address = str(before[name].address) if name in before else None
            rule = table.REMOVED if name in before else None
            yield Change(sign="-", kind=Kind.NODE, name=name, old=address, lost=_NODE_KEYS, rule=rule)
    left = {node.address for name, node in before.items() if name not in after}
    for name, node in after.items():
        if name not in before:
            rule = table.RENAMED if node.address in left else table.ADDED
            yield Change(sign="+", kind=Kind.NODE, name=name, new=str(node.address), rule=rule)
        else:
            yield from _moved(before[name], node, sealed=sealed)
    was, now = [name for name in before if name in after], [name for name in after if name in before]
    if was != now:
        yield Change(sign="~", kind=Kind.FIELD, name="nodes", old=was, new=now, rule=table.REORDERED)


def _moved(old: NodePlan, new: NodePlan, *, sealed: bool) -> Iterator[Change]:
    rows = (
        ("address", table.MOVED, ""),
        ("mac", table.MAC, _MAC),
        ("host", table.REHOSTED, _DISKS),
    )
    for part, rule, loss in rows:
        was, now = (str(getattr(node, part)) for node in (old, new))
        if was != now:
            lost = loss if sealed else ""
            yield Change(sign="~", kind=Kind.NODE, name=new.name, part=part, old=was, new=now, lost=lost, rule=rule)


def _hosts(old: ClusterSpec, new: ClusterSpec) -> Iterator[Change]:
    """Compare the hosts by name."""
    before, after = ({host.name: host for host in spec.hosts} for spec in (old, new))
    used = set(node_hosts(old))
    for name in before:
        if name not in after:
            rule = table.HOST_LEFT if name in used else table.HOST_REMOVED
            yield Change(sign="-", kind=Kind.HOST, name=name, old=before[name].uri, rule=rule)
    for name, host in after.items():
        if name not in before:
            yield Change(sign="+", kind=Kind.HOST, name=name, new=host.uri, rule=table.HOST_ADDED)
            continue
        was, now = plain(before[name]), plain(host)
        for part in dict.fromkeys((*was, *now)):
            if was.get(part) != now.get(part):
                rule = field_level(("hosts[]", part), old, new)
                yield Change(
                    sign="~", kind=Kind.HOST, name=name, part=part, old=was.get(part), new=now.get(part), rule=rule
                )  # fmt: skip


def _users(old: ClusterSpec, new: ClusterSpec) -> Iterator[Change]:
    before, after = ([user.name for user in spec.auth.users if spec.auth.enabled] for spec in (old, new))
    rule = field_level(("auth", "users"), old, new)
    for name in before:
        if name not in after:
            yield Change(sign="-", kind=Kind.USER, name=name, lost=_USER_KEY, rule=rule)
    for name in after:
        if name not in before:
            yield Change(sign="+", kind=Kind.USER, name=name, rule=rule)


def _fields(old: ClusterSpec, new: ClusterSpec) -> Iterator[Change]:
    before, after = (flat(plain(spec)) for spec in (old, new))
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path), after.get(path)
        apart = path[0] in ("nodes", "hosts") or path in (("auth", "users"), ("auth", "roles"))
        if was != now and not apart:
            sign, rule = "+" if path not in before else "-" if path not in after else "~", field_level(path, old, new)
            yield Change(
                sign=sign, kind=Kind.FIELD, name=".".join(map(str, path)), old=was, new=now,
                lost=_AUTH if path == ("auth", "enabled") and was else "", note=rule.note, rule=rule,
            )  # fmt: skip
    for name in ("users", "roles"):
        if getattr(old.auth, name) != getattr(new.auth, name):
            rule = field_level(("auth", name), old, new)
            yield Change(sign="~", kind=Kind.FIELD, name=f"auth.{name}", rule=rule)


def with_older_etcd(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return the changes with an older etcd.version allowed. The caller knows that a member still runs this version.

    etcd changes the format of its data only when all members run the newer version.
    """
    return tuple(
        change._replace(lost="", rule=table.ETCD_VERSION) if change.name == "etcd.version" else change
        for change in changes
    )


def refused(changes: Iterable[Change], *, by_bake: bool = False) -> list[Problem]:
    """Return a problem for each change that no running cluster can apply. Its hint is the way to the same result.

    `by_bake`: leave out the changes that `bake` writes, because the way needs new seeds. A cluster that is not sealed
    does not run, so it has no such changes.
    """
    changes = list(changes)
    return [
        _refusal(change, change.rule, changes)
        for change in changes
        if change.rule and change.level is Level.REFUSED and not (by_bake and change.rule.is_written)
    ]


def _refusal(change: Change, rule: FieldLevel, changes: list[Change]) -> Problem:
    where, owner, was, now = rule.field, "", change.old, change.new
    if rule is table.RENAMED:
        was = next(each.name for each in changes if each.kind is Kind.NODE and each.old == change.new)
        now = change.name
    elif change.kind in (Kind.NODE, Kind.HOST):
        owner = f"{change.name}: "
    return Problem(where, f"{owner}{_values(was, now)}, but {rule.why}", rule.how)


def _values(*values: Any) -> str:
    return " → ".join("unset" if value is None else value_text(value) for value in values)


def losses(changes: Iterable[Change]) -> list[str]:
    """Return one line for each kind of loss. A line starts with the affected nodes, users, fields and files."""
    names: dict[str, list[str]] = defaultdict(list)
    for change in changes:
        if change.lost:
            names[change.lost].append(change.name)
    texts = {lost: _OF_SEVERAL.get(lost, lost) if len({*each}) > 1 else lost for lost, each in names.items()}
    return [f"{', '.join(dict.fromkeys(each))}: {texts[lost]}" for lost, each in names.items()]


def file_changes(differences: Iterable[tuple[str, str]]) -> tuple[Change, ...]:
    """Return a change for each changed file except the manifest. The manifest changes whenever another file changes."""
    return tuple(Change(sign=sign, kind=Kind.FILE, name=name) for sign, name in differences if name != str(MANIFEST))


def shown(changes: Iterable[Change]) -> list[str]:
    """Return a line for each change. Files with the same sign in the same folder share a line."""
    lines, files = [], defaultdict(list)
    for change in changes:
        if change.kind is Kind.FILE and not change.lost:
            folder, _, name = change.name.rpartition("/")
            files[change.sign, folder].append(name)
        else:
            way = f"{change.rule.why}; {change.rule.how}" if change.rule and change.rule.why else ""
            more, level = change.lost or change.note or way, f" [{change.level}]" if change.level else ""
            lines.append(f"{change}{level}{f' ({more})' if more else ''}")
    for (sign, folder), names in files.items():
        lines.append(f"{sign} {folder}/: {', '.join(names)}" if folder else f"{sign} {', '.join(names)}")
    return lines
