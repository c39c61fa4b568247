"""The Python API. Names in `__all__` stay stable within a major version; every other module of the package is private.

    from generator import api

    loaded = api.load("out", profile="debian", fields={"name": "prod", "nodes": 3})
    baked = api.bake("out", loaded)

Functions print nothing, ask nothing and never exit. They raise `BakeError` or one of its subclasses.
docs/reference/python.md describes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from generator.config import load as loading
from generator.config.load import Loaded
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError, Problem, StaleError, UnsignedError
from generator.health import Check, Result
from generator.operations import bake as baking
from generator.operations import baked_cluster
from generator.operations import up as running
from generator.operations.bake import Agreed, Baked
from generator.operations.baked_cluster import Cluster
from generator.operations.changes import Change, compare, losses
from generator.operations.verify import Verification
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.store.folder import Store
from generator.store.kept_spec import find_standing

__all__ = [
    "BakeError",
    "Baked",
    "Change",
    "Check",
    "Cluster",
    "ClusterPlan",
    "ClusterSpec",
    "InputError",
    "Loaded",
    "NodePlan",
    "Problem",
    "Result",
    "StaleError",
    "UnsignedError",
    "Verification",
    "bake",
    "changes",
    "load",
    "open_cluster",
    "plan",
    "verify",
]


def load(
    out: Path | str,
    *,
    profile: str | None = None,
    config: Path | str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read a cluster's configuration and check it. Writes nothing.

    `out`: the folder that holds the folders of all clusters. If the cluster was baked there before, its values stay,
    as on the command line, except those that are given now.
    `profile`: the name of a profile, or the path of a file (with a `/`, or ending in `.yaml`). Default: `default`.
    `config`: the path of a cluster file; it overrides the profile.
    `fields`: the fields of a cluster file as `dict`, `list`, `str`, `int` and `bool`; they override the file.
    Relative paths in files and fields are relative to the current folder.

    Returns the spec with its warnings. Raises InputError; its `problems` has all problems with their places.
    """
    flags = {_place(path): (path, value) for path, value in _leaves(fields or {})}
    path = None if config is None else Path(config)
    find = partial(find_standing, Path(out))
    return loading.load(profile=profile, config=path, flags=flags, find=find, folder=Path.cwd())


def _leaves(fields: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value with its path. A list is one value, and so is an empty mapping: it may be wrong where it is."""
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _place(path: tuple[str, ...]) -> str:
    """Return the expression that reads a value, such as `fields['vm']['cpus']`: it locates a problem in `fields`."""
    return "fields" + "".join(f"[{key!r}]" for key in path)


def changes(loaded: Loaded) -> tuple[Change, ...]:
    """Return what a bake changes in the cluster that exists: nodes, users and fields. Empty for a new cluster.

    A change with a `lost` text cannot be undone, such as a removed node, whose keys are deleted.
    """
    return compare(loaded.standing, loaded.spec)


def plan(loaded: Loaded) -> ClusterPlan:
    """Return every derived value: the nodes' names, addresses, URLs and MACs, and the network. Writes nothing."""
    return plan_cluster(loaded.spec)


def bake(
    out: Path | str,
    loaded: Loaded,
    *,
    allow_loss: bool = False,
    passphrase: bytes | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> Baked:
    """Write the cluster's folder `out/<name>/` with keys, certificates and one seed ISO per node.

    The folder is replaced in one step: after an error it has its old content. A second bake of the same spec changes
    nothing. Another process that bakes the same cluster at the same time is waited for.

    `out`: the same folder that was given to `load`.
    `allow_loss`: permit changes that cannot be undone (`Change.lost`).
    `passphrase`: of an encrypted CA key. bake encrypts a CA key that is not encrypted yet.
    `report`: called with each line of progress and each warning.

    Returns the plan, the folder (`pathlib.Path`), and the names of the files that changed. Raises
    - InputError: wrong input, a change that needs `allow_loss`, or a folder that other users can write to;
    - StaleError: another process changed the cluster after `load`: load again;
    - UnsignedError: certificate requests were written, and a CA whose key is elsewhere has to sign them;
    - BakeError: everything else, such as a full disk.
    """
    lost = losses(changes(loaded))
    if lost and not allow_loss:
        raise InputError.one("", f"this cannot be undone: {'; '.join(lost)}", "nothing was changed; allow_loss=True")
    digest = loaded.standing.digest if loaded.standing else ""
    agreed = Agreed(said=loaded.said, digest=digest, announce=lambda _differences: None)
    store = Store(Path(out), loaded.spec.name)
    return baking.bake(
        loaded.spec, store, now=datetime.now(UTC), report=report, passphrase=passphrase, agreed=agreed
    )


def open_cluster(out: Path | str, name: str = "etcd") -> Cluster:
    """Return a cluster that was baked: its `plan`, its `store.folder`, and whether it is `sealed`.

    Raises InputError if there is no such cluster in `out`, UnsignedError if its certificates are not signed yet.
    """
    return baked_cluster.open_cluster(Store(Path(out), name))


def verify(cluster: Cluster, *, report: Callable[[str], None] = lambda _line: None) -> Verification:
    """Check a running cluster through every node: members, health, writes and reads, refused clients.

    Takes seconds; nodes that do not answer end in a failed check, not in an exception. Writes one key per
    node below `/bake/verify/` and deletes it again. Needs the packages of the extra `vm`.

    Returns one `Check` for each property; `healthy` is true if none failed and none was skipped. Raises BakeError if
    a package or the operator's certificate is missing.
    """
    return running.verify_cluster(cluster, now=datetime.now(UTC), report=report)
