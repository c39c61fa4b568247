"""Profile, cluster file and flags, laid over each other, become a `ClusterSpec` — or every problem at once.

Flags win over the file, the file over the profile, the profile over what stands. Each value remembers where it came
from, so a problem points at the line or the flag that caused it.
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
    """A spec, and what is allowed but deserves a word (such as an even number of members).

    `said`: the fields that were set, now or earlier; `standing`: the cluster as it was baked, None for a new one.
    """

    spec: ClusterSpec
    warnings: tuple[Problem, ...]
    said: Said
    standing: Standing | None


@dataclass(slots=True)
class _Layers:
    """The raw values laid over each other, and the origin of each: `file:line:col` or a flag."""

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
        """Whether a section is at `path`, or nothing; what a file has there instead must stay, to be refused."""
        value: Any = self.value
        for key in path:
            value = value.get(key, {})
            if not isinstance(value, dict):
                return False
        return True

    def where(self, path: _Path) -> str:
        """`origin: dotted.field`, the origin being that of the value or of the nearest thing around it."""
        dotted = dotted_path(path)
        for length in range(len(path), 0, -1):
            if origin := self.origins.get(path[:length]):
                return origin if origin.startswith("-") else f"{origin}: {dotted}"
        return dotted


def dotted_path(path: _Path) -> str:
    """`nodes[2].address` for `("nodes", 2, "address")`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{named(part)}" for part in path)
    return text.removeprefix(".")


def profile_names() -> list[str]:
    """The names that `--profile` knows without a path."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def profile_path(name: str) -> Path:
    """The file of a profile given by name, or by a path that has a `/` or ends in `.yaml`."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    if name in profile_names():
        return PROFILES / f"{name}.yaml"
    known = ", ".join(profile_names())
    raise InputError.one("--profile", f"there is no profile {name!r}", f"one of {known}, or the path of a file")


def load(
    *,
    profile: str | None = None,
    config: Path | None = None,
    flags: Flags | None = None,
    find: Callable[[str], Standing | None] = lambda _name: None,
    folder: Path | None = None,
) -> Loaded:
    """Lay profile, cluster file and flags over what stands, and check the result.

    `flags` maps a flag (`--nodes`) to the path of the field it sets and its value. `find` looks for a cluster that was
    baked, by its name; what it was given then holds again where neither a profile nor a file is given now. `folder`:
    what the paths in them are relative to; None leaves them alone.
    Raises InputError with every problem found.
    """
    upper = _Layers() if config is None else _read(config, folder)
    lower = _Layers() if profile is None else _read(profile_path(profile), folder)
    _lay_flags(upper, flags or {}, folder, over=lower)
    name = upper.value.get("name", lower.value.get("name", "etcd"))
    standing = find(name)
    if standing and not standing.is_known and config is None:
        rule = "is not as it was baked, so it is not known what stands"
        raise InputError.one(f"{standing.where}/{SPEC}", rule, "undo the change; or: --config FILE, with all fields")
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

    An etcd option that only a newer version refuses is no problem here: a cluster that has it can still be verified,
    sealed and removed. The next bake refuses it.
    """
    layers = _read(path, None)
    layers.value = with_added(layers.value)
    spec, _ = _read_spec(layers, tolerated=("etcd", "options"))
    return settle_peers(spec)


def kept_fields(loaded: Loaded) -> list[str]:
    """Fields that stand otherwise than this version, with its profiles, would have them now."""
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
    """The profile as it was when it was chosen: a newer version of it changes nothing before it is chosen again."""
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
    """A file of some other kind is refused as a whole: its keys may hold secrets, and messages end up in logs."""
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
    """Return the spec and its warnings; what is refused below the path `tolerated` is left alone. Raises InputError."""
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
