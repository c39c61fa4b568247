"""Merge profile, cluster file and flags into a `ClusterSpec`, and report all problems at once.

Flags override the cluster file. The cluster file overrides the profile. The profile overrides the values of the
existing cluster. `load` records which line or flag set each value, so that a message about a value can name the line or
the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from generator.config import yaml12
from generator.config.fields import FieldPath, FieldProblem, plain, settings_of, shown_key, value_text
from generator.config.placement import with_peer_defaults
from generator.config.rules import check_spec
from generator.config.spec import FIELDS_ADDED, ClusterSpec, read_spec
from generator.config.user_input import ExistingCluster, UserInput, absolute, at, canonical, flat, put, with_added
from generator.errors import InputError, Problem
from generator.layout import INPUT, SPEC

Flags = Mapping[str, tuple[FieldPath, Any]]
_DEFAULTS = ClusterSpec()
_HERE = Path(__file__).parents[1]
# In a source tree, the profiles are next to the package; in a wheel, they are inside the package.
PROFILES = next(path for path in (_HERE / "profiles", _HERE.parent / "profiles", _HERE) if path.is_dir())


class Loaded(NamedTuple):
    """A spec, and the warnings about the spec.

    `user_input`: all fields that the user has set. `existing`: None for a new cluster.
    """

    spec: ClusterSpec
    warnings: tuple[Problem, ...]
    user_input: UserInput
    existing: ExistingCluster | None

    @property
    def digest(self) -> str:
        """The digest of the existing cluster, or "" for a new cluster."""
        return self.existing.digest if self.existing else ""


@dataclass(slots=True)
class _Layers:
    """Merged raw values. `origins`: the `file:line:col` or the flag that set each value."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[FieldPath, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any], origins: Mapping[FieldPath, str]) -> _Layers:
        layers = cls()
        layers.merge(value, origins)
        return layers

    def merge(self, value: Mapping[str, Any], origins: Mapping[FieldPath, str], path: FieldPath = ()) -> None:
        target = self.value
        for key in path:
            target = target[key]  # type: ignore[index]
        for key, item in value.items():
            here = (*path, key)
            if isinstance(item, dict) and isinstance(target.get(key), dict):
                self.merge(item, origins, here)
            else:
                target[key] = deepcopy(item)
            self.origins.update({at: where for at, where in origins.items() if at[: len(here)] == here})

    def accepts(self, path: FieldPath) -> bool:
        """Return whether a section exists, or can be created, at `path`."""
        value: Any = self.value
        for key in path:
            value = value.get(key, {})
            if not isinstance(value, dict):
                return False
        return True

    def where(self, path: FieldPath) -> str:
        """Return `origin: dotted.field`. `origin`: the file position or flag that set the value, else its section."""
        dotted = dotted_path(path)
        for length in range(len(path), 0, -1):
            if origin := self.origins.get(path[:length]):
                return origin if origin.startswith("-") else f"{origin}: {dotted}"
        return dotted


def dotted_path(path: FieldPath) -> str:
    """Return `nodes[2].address` for `("nodes", 2, "address")`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown_key(part)}" for part in path)
    return text.removeprefix(".")


def profile_names() -> list[str]:
    """Return the names of the built-in profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def profile_path(name: str) -> Path:
    """Return the file of a profile. `name`: a profile's name, or a path with a `/` or the suffix `.yaml`."""
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
    find: Callable[[str], ExistingCluster | None] = lambda _name: None,
    folder: Path | None = None,
) -> Loaded:
    """Merge profile, cluster file and flags with the existing cluster, and check the result.

    `flags` maps a flag such as `--nodes` to the path and the value of a field. `find` takes a name and returns
    the existing cluster, or None. If `profile` is None, an existing cluster keeps its profile. If `config` is None, an
    existing cluster keeps the fields that the user set. `folder`: the base of relative paths in files and flags. If
    `folder` is None, paths stay unchanged.
    Raises InputError with every problem found.
    """
    upper = _Layers() if config is None else _read(config, folder)
    lower = _Layers() if profile is None else _read(profile_path(profile), folder)
    _merge_flags(upper, flags or {}, folder, over=lower)
    name = upper.value.get("name", lower.value.get("name", "etcd"))
    existing = find(name)
    if existing and not existing.is_known and config is None:
        rule = "was changed after bake wrote it, so bake does not know the cluster's fields"
        raise InputError.one(f"{existing.where}/{SPEC}", rule, "restore the file, or set all fields with --config FILE")
    if profile is None:
        profile, lower = _kept_profile(existing) if existing else ("default", _read(profile_path("default"), folder))
    if config is None and existing and existing.user_input:
        kept = existing.user_input.fields
        given, upper = upper, _Layers.of(kept, _of_values(kept, existing.input_origins))
        upper.merge(given.value, given.origins)
    layers = _Layers()
    if existing:
        layers.merge(existing.fields_not_set() | {"name": name}, _of_values(existing.value, existing.origins))
    layers.merge(lower.value, lower.origins)
    layers.merge(upper.value, upper.origins)
    return _check(layers, profile, lower, upper, existing)


def load_kept(path: Path) -> ClusterSpec:
    """Read a `cluster.yaml` that bake wrote. Raises InputError with every problem found.

    `load_kept` ignores problems in etcd.options, because this version of bake may refuse an option that an older
    version allowed. The user must still be able to verify, seal and remove the cluster.
    """
    layers = _read(path, None)
    layers.value = with_added(layers.value)
    spec, _ = _read_spec(layers, tolerated=("etcd", "options"))
    return with_peer_defaults(spec)


def kept_fields(loaded: Loaded) -> list[str]:
    """Return the fields that keep values from an older version of bake, although the defaults have changed."""
    user_input = loaded.user_input
    if loaded.existing is None:
        return []
    profile = user_input.profile_fields
    if user_input.profile in profile_names():
        profile = _read(profile_path(user_input.profile), None).value
    data, now = flat(plain(loaded.spec)), flat(plain(_DEFAULTS)) | flat(canonical(profile))
    candidates = set(FIELDS_ADDED) if user_input.profile is None else {*data, *now} - {("name",)}
    return [
        f"{dotted_path(path)} {value_text(data.get(path, 'unset'))}, not {value_text(now[path])}"
        for path in data | now
        if path in candidates and path in now and path not in flat(user_input.fields) and data.get(path) != now[path]
    ]


def _read(path: Path, folder: Path | None) -> _Layers:
    document = yaml12.load_file(path)
    if not isinstance(document.value, dict):
        raise InputError.one(f"{path}:1:1", "is not a mapping", "begin the file with `apiVersion: bake/v1`")
    _refuse_other_file(document.value, path)
    return _Layers.of(absolute(document.value, folder) if folder else document.value, document.positions)


def _kept_profile(existing: ExistingCluster) -> tuple[str | None, _Layers]:
    """Return the name of the existing cluster's profile, and the stored copy of the profile's fields."""
    user_input = existing.user_input
    if user_input is None:
        return None, _Layers()
    where = f"{existing.where}/{INPUT} (profile {user_input.profile})"
    fields = user_input.profile_fields
    return user_input.profile, _Layers.of(fields, {(key,): where for key in fields})


def _of_values(fields: Mapping[str, Any], origins: Mapping[FieldPath, str]) -> dict[FieldPath, str]:
    """Return the origins without those of sections: the user adds no field to a file that bake wrote."""
    return {path: where for path, where in origins.items() if not isinstance(at(fields, path), Mapping)}


def _merge_flags(layers: _Layers, flags: Flags, folder: Path | None, *, over: _Layers) -> None:
    for flag, (path, value) in flags.items():
        nested: dict[str, Any] = {}
        put(nested, path, value)
        if layers.accepts(path[:-1]) and over.accepts(path[:-1]):
            layers.merge(absolute(nested, folder) if folder else nested, {path: flag})


def _refuse_other_file(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that is not a cluster file.

    The message shows none of the file's keys, because a key may be a secret.
    """
    known, keys = settings_of(ClusterSpec), [*islice(fields, 20)]
    if not keys or not known.keys().isdisjoint(keys):
        return
    if not any(_similar(key, known) for key in keys):
        message = "has none of the fields of a cluster file"
        raise InputError.one(f"{path}:1:1", message, "begin the file with `apiVersion: bake/v1`")


def _check(
    layers: _Layers, profile: str | None, lower: _Layers, upper: _Layers, existing: ExistingCluster | None
) -> Loaded:
    spec, warnings = _read_spec(layers)
    kept = existing.spec if existing else None
    return Loaded(
        spec=with_peer_defaults(spec, kept.pki if kept else None),
        warnings=warnings,
        user_input=UserInput(profile=profile, profile_fields=canonical(lower.value), fields=canonical(upper.value)),
        existing=existing,
    )


def _read_spec(layers: _Layers, *, tolerated: FieldPath | None = None) -> tuple[ClusterSpec, tuple[Problem, ...]]:
    """Return the spec and its warnings. Ignore broken rules for the field `tolerated`. Raises InputError."""
    spec, wrong = read_spec(layers.value)
    problems = [Problem(layers.where(each.path), each.message, _hint(each)) for each in wrong]
    refused, warnings = check_spec(spec, unread=[path for each in wrong for path in _unread(each, layers.value)])
    problems += [
        Problem(layers.where(path), message, hint)
        for path, message, hint in refused
        if tolerated is None or path[: len(tolerated)] != tolerated
    ]
    if problems:
        raise InputError(sorted(dict.fromkeys(problems), key=lambda problem: _order(problem.where)))
    return spec, tuple(Problem(layers.where(path), message, hint) for path, message, hint in warnings)


def _unread(wrong: FieldProblem, value: Any) -> Iterator[FieldPath]:
    """Yield the fields whose values are not known: an invalid field, or the unset fields next to an unknown field.

    A cluster file has many unset sections, so an unknown section counts only for those with a similar name.
    """
    if not wrong.known:
        yield wrong.path
        return
    *section, _ = wrong.path
    for key in section:
        value = value[key]
    meant = wrong.known if section else _similar(str(wrong.path[-1]), wrong.known)
    yield from ((*section, name) for name in meant if name not in value)


def _similar(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are similar to a name, the most similar name first."""
    from difflib import get_close_matches  # only wrong input needs this module

    return get_close_matches(name, list(known))


def _order(where: str) -> tuple[str, int, int]:
    file, _, rest = where.partition(":")
    line, _, rest = rest.partition(":")
    column = rest.partition(":")[0]
    return (file, int(line), int(column)) if line.isdigit() and column.isdigit() else (file, 0, 0)


def _hint(wrong: FieldProblem) -> str | None:
    if not wrong.known:
        return wrong.hint
    close = _similar(str(wrong.path[-1]), wrong.known)
    return f"did you mean {close[0]}?" if close else f"use one of these fields: {', '.join(wrong.known)}"
