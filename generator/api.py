"""The Python API. The names in `__all__` change only with a new major version.

All modules of the package `generator` are private, except `generator.api`.

    from generator import api

    loaded = api.load("out", profile="debian", fields={"name": "prod", "nodes": 3})
    baked = api.bake("out", loaded)

The functions print nothing, ask the user nothing and never exit the process. Every error is a `BakeError`.
docs/reference/python.md describes each function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from generator.change.spec_changes import Change, compare, losses, refused
from generator.config import load as loading
from generator.config.load import Loaded
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError, Problem, StaleError, UnsignedError
from generator.health import Check, Result
from generator.operations import bake as baking
from generator.operations import baked_cluster
from generator.operations import verify as verifying
from generator.operations.bake import Agreed, Baked
from generator.operations.baked_cluster import Cluster
from generator.operations.verify import Verification
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.store.existing_cluster import find_existing
from generator.store.folder import Store

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

    `out`: the output folder, with one folder per cluster. If the cluster exists already, a field that you do not pass
    keeps its value.
    `profile`: the name of a profile, or a path that contains a `/` or ends in `.yaml`. Default: `default`.
    `config`: the path of a cluster file, which overrides the profile.
    `fields`: the fields of a cluster file. The values have the types `dict`, `list`, `str`, `int` and `bool`.
    `fields` overrides `config`.
    Relative paths in files and fields are relative to the current folder.

    Returns the spec and the warnings. Raises InputError; `InputError.problems` lists every problem with its location.
    """
    flags = {_place(path): (path, value) for path, value in _leaves(fields or {})}
    path = None if config is None else Path(config)
    find = partial(find_existing, Path(out))
    return loading.load(profile=profile, config=path, flags=flags, find=find, folder=Path.cwd())


def _leaves(fields: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value of nested mappings with its path. Lists and empty mappings count as values."""
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _place(path: tuple[str, ...]) -> str:
    """Return a value's location for messages, such as `fields['vm']['cpus']`."""
    return "fields" + "".join(f"[{key!r}]" for key in path)


def changes(loaded: Loaded) -> tuple[Change, ...]:
    """Return the nodes, users and fields that `bake` would change in an existing cluster. Empty for a new cluster.

    If a change cannot be undone, `Change.lost` says what is lost. For example, removing a node deletes the node's keys.
    `Change.level` says what the change costs a running node, such as `live` or `restart`.
    """
    return compare(loaded.existing, loaded.spec)


def plan(loaded: Loaded) -> ClusterPlan:
    """Return the values that bake derives from the spec, such as names, addresses, URLs and MACs. Writes nothing."""
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

    bake replaces the folder atomically: after an error, the folder has its old content. If the spec has not changed,
    bake changes nothing. If another process is baking in the same output folder, bake waits for that process.

    `out`: the output folder that you passed to `load`.
    `allow_loss`: if true, bake makes changes that cannot be undone.
    `passphrase`: the passphrase of the CA key. With a passphrase, bake encrypts a CA key that is not encrypted yet.
    `report`: a function that receives each line of progress and each warning.

    Returns the plan, the folder (`pathlib.Path`), and the names of the files that changed. Raises
    - InputError: wrong input, a change that needs `allow_loss` or that no running node can apply, or a folder that
      other users can write to;
    - StaleError: another process changed the cluster after `load`; call `load` again;
    - UnsignedError: bake wrote certificate requests that an external CA must sign;
    - BakeError: everything else, such as a full disk.
    """
    found = changes(loaded)
    if problems := refused(found, by_bake=True):
        raise InputError(problems)
    lost = losses(found)
    if lost and not allow_loss:
        hint = "nothing was changed; with allow_loss=True, bake makes the change"
        raise InputError.one("", f"this cannot be undone: {'; '.join(lost)}", hint)
    agreed = Agreed(user_input=loaded.user_input, digest=loaded.digest, announce=lambda _differences: None)
    store = Store(Path(out), loaded.spec.name)
    return baking.bake(loaded.spec, store, now=datetime.now(UTC), report=report, passphrase=passphrase, agreed=agreed)


def open_cluster(out: Path | str, name: str = "etcd") -> Cluster:
    """Return the cluster that `bake` wrote to `out`, with the attributes `plan`, `store.folder` and `sealed`.

    Raises InputError if `out` does not contain the cluster.
    Raises UnsignedError if an external CA must still sign certificates.
    """
    return baked_cluster.open_cluster(Store(Path(out), name))


def verify(cluster: Cluster, *, report: Callable[[str], None] = lambda _line: None) -> Verification:
    """Check the members and the health of a running cluster. Check that the cluster refuses unauthorized clients.

    `verify` connects to every node. If a node does not answer, a check fails, but `verify` raises no exception.
    `verify` writes and reads one key per node below `/bake/verify/`, and then deletes the keys. `verify` needs the
    packages that `pip install '.[vm]'` installs.

    The result has one `Check` for each property. `Verification.healthy` is false if a check failed or was skipped.
    Raises BakeError if a package or the operator's certificate is missing.
    """
    return verifying.verify_cluster(cluster, now=datetime.now(UTC), report=report)
