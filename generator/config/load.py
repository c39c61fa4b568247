"""Merge profile, cluster file and flags into a `ClusterSpec`, and report all problems at once.

Flags override the file, the file overrides the profile, and the profile overrides the cluster as it was baked. The
origin of each value is recorded, so that a problem names its line or flag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from generator.config import yaml12
from generator.config.defaults import settle_peers
from generator.config.fields import Wrong, named, settings_of
from generator.config.kept_fields import differing
from generator.config.rules import check_spec
from generator.config.spec import ClusterSpec, read_spec
from generator.config.user_input import Said, Standing, absolute, canonical, put, with_added
from generator.errors import InputError, Problem
from generator.layout import INPUT, SPEC

_Path = tuple[str | int, ...]
Flags = Mapping[str, tuple[_Path, Any]]
_HERE = Path(__file__).parents[1]
# In the source tree the profiles lie beside the package; in a wheel, inside it.
PROFILES = next(path for path in (_HERE / "profiles", _HERE.parent / "profiles", _HERE) if path.is_dir())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A spec and its warnings, such as an even number of members.

    `said`: the fields that the user set, now or earlier; `standing`: the cluster as baked, None for a new one.
    """

    spec: ClusterSpec
    warnings: tuple[Problem, ...]
    said: Said
    standing: Standing | None


@dataclass(slots=True)
class _Layers:
    """Merged raw values and the origin of each: `file:line:col` or a flag."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[_Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any], origins: Mapping[_Path, str]) -> _Layers:
        layers = cls()
        layers.lay(value, origins)
        return layers

    def lay(self, value: Mapping[str, Any], origins: Mapping[_Path, str], path: _Path = ()) -> None:
        target = self.value
        for key in path:
            target = target[key]  # type: ignore[index]
        for key, item in value.items():
            here = (*path, key)
            if isinstance(item, dict) and isinstance(target.get(key), dict):
                self.lay(item, origins, here)
            else:
                target[key] = deepcopy(item)
            self.origins.update({at: where for at, where in origins.items() if at[: len(here)] == here})

    def has_room(self, path: _Path) -> bool:
        """Return whether `path` is a section or unset. Any other value stays there, so that it is refused."""
        value: Any = self.value
        for key in path:
            value = value.get(key, {})
            if not isinstance(value, dict):
                return False
        return True

    def where(self, path: _Path) -> str:
        """Return `origin: dotted.field`, with the origin of the value or of the nearest enclosing section."""
        dotted = dotted_path(path)
        for length in range(len(path), 0, -1):
            if origin := self.origins.get(path[:length]):
                return origin if origin.startswith("-") else f"{origin}: {dotted}"
        return dotted


def dotted_path(path: _Path) -> str:
    """Return `nodes[2].address` for `("nodes", 2, "address")`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{named(part)}" for part in path)
    return text.removeprefix(".")


def profile_names() -> list[str]:
    """Return the names of the built-in profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def profile_path(name: str) -> Path:
    """Return the file of a profile, given by name or by a path with a `/` or the suffix `.yaml`."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    if name in profile_names():
        return PROFILES / f"{name}.yaml"
    known = ", ".join(profile_names())
    raise InputError.one("--profile", f"there is no profile {name!r}", f"use one of {known}, or the path of a file")


def load(
    *,
    profile: str | None = None,
    config: Path | None = None,
    flags: Flags | None = None,
    find: Callable[[str], Standing | None] = lambda _name: None,
    folder: Path | None = None,
) -> Loaded:
    """Merge profile, cluster file and flags over the baked cluster, and check the result.

    `flags` maps a flag (`--nodes`) to the path of the field it sets and its value. `find` returns a baked cluster by
    its name; without a profile or a file, its own are used again. `folder`: the base of relative paths; None keeps
    paths unchanged.
    Raises InputError with every problem found.
    """
    upper = _Layers() if config is None else _read(config, folder)
    lower = _Layers() if profile is None else _read(profile_path(profile), folder)
    _lay_flags(upper, flags or {}, folder, over=lower)
    name = upper.value.get("name", lower.value.get("name", "etcd"))
    standing = find(name)
    if standing and not standing.is_known and config is None:
        rule = "was changed after bake wrote it, so the current fields are not known"
        raise InputError.one(f"{standing.where}/{SPEC}", rule, "undo the change, or give all fields with --config FILE")
    if profile is None:
        profile, lower = _kept_profile(standing) if standing else ("default", _read(profile_path("default"), folder))
    if config is None and standing and standing.said:
        given, upper = upper, _Layers.of(standing.said.fields, standing.said_origins)
        upper.lay(given.value, given.origins)
    layers = _Layers()
    if standing:
        layers.lay(standing.without_said() | {"name": name}, standing.origins)
    layers.lay(lower.value, lower.origins)
    layers.lay(upper.value, upper.origins)
    return _check(layers, profile, lower, upper, standing)


def load_kept(path: Path) -> ClusterSpec:
    """Read the spec that an earlier bake wrote. Raises InputError with every problem found.

    An etcd option that only a newer bake refuses is accepted here, so that the cluster can still be verified, sealed
    and removed. The next bake refuses it.
    """
    layers = _read(path, None)
    layers.value = with_added(layers.value)
    spec, _ = _read_spec(layers, tolerated=("etcd", "options"))
    return settle_peers(spec)


def kept_fields(loaded: Loaded) -> list[str]:
    """Return the fields whose kept value differs from the one that this version of bake would choose."""
    said = loaded.said
    current = _read(profile_path(said.profile), None).value if said.profile in profile_names() else said.profile_fields
    return differing(loaded.spec, said, loaded.standing, canonical(current))


def _read(path: Path, folder: Path | None) -> _Layers:
    document = yaml12.load_file(path)
    if not isinstance(document.value, dict):
        raise InputError.one(f"{path}:1:1", "is not a mapping", "begin with `apiVersion: bake/v1`")
    _refuse_other_file(document.value, path)
    return _Layers.of(absolute(document.value, folder) if folder else document.value, document.positions)


def _kept_profile(standing: Standing) -> tuple[str | None, _Layers]:
    """Return the profile as it was when it was chosen: a newer version applies only when it is chosen again."""
    said = standing.said
    if said is None:
        return None, _Layers()
    where = f"{standing.where}/{INPUT} (profile {said.profile})"
    return said.profile, _Layers.of(said.profile_fields, {(key,): where for key in said.profile_fields})


def _lay_flags(layers: _Layers, flags: Flags, folder: Path | None, *, over: _Layers) -> None:
    for flag, (path, value) in flags.items():
        nested: dict[str, Any] = {}
        put(nested, path, value)
        if layers.has_room(path[:-1]) and over.has_room(path[:-1]):
            layers.lay(absolute(nested, folder) if folder else nested, {path: flag})


def _refuse_other_file(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of another kind as a whole: its keys may be secrets, and messages are logged."""
    known = settings_of(ClusterSpec)
    if fields and not any(get_close_matches(key, known, n=1) for key in islice(fields, 20)):
        message = "is not a cluster file: it has none of the fields"
        raise InputError.one(f"{path}:1:1", message, "begin with `apiVersion: bake/v1`")


def _check(layers: _Layers, profile: str | None, lower: _Layers, upper: _Layers, standing: Standing | None) -> Loaded:
    spec, warnings = _read_spec(layers)
    kept = standing.spec if standing else None
    return Loaded(
        spec=settle_peers(spec, kept.pki if kept else None),
        warnings=warnings,
        said=Said(profile=profile, profile_fields=canonical(lower.value), fields=canonical(upper.value)),
        standing=standing,
    )


def _read_spec(layers: _Layers, *, tolerated: _Path | None = None) -> tuple[ClusterSpec, tuple[Problem, ...]]:
    """Return the spec and its warnings; problems below the path `tolerated` are ignored. Raises InputError."""
    spec, wrong = read_spec(layers.value)
    problems = [Problem(layers.where(each.path), each.message, _hint(each)) for each in wrong]
    refused, warnings = check_spec(spec)
    problems += [
        Problem(layers.where(path), message, hint)
        for path, message, hint in refused
        if tolerated is None or path[: len(tolerated)] != tolerated
    ]
    if problems:
        raise InputError(sorted(dict.fromkeys(problems), key=lambda problem: _order(problem.where)))
    return spec, tuple(Problem(layers.where(path), message, hint) for path, message, hint in warnings)


def _order(where: str) -> tuple[str, int, int]:
    file, _, rest = where.partition(":")
    line, _, rest = rest.partition(":")
    column = rest.partition(":")[0]
    return (file, int(line), int(column)) if line.isdigit() and column.isdigit() else (file, 0, 0)


def _hint(wrong: Wrong) -> str | None:
    if not wrong.known:
        return wrong.hint
    close = get_close_matches(str(wrong.path[-1]), wrong.known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(wrong.known)}"
