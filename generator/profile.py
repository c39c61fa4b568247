"""Profile, cluster file and flags, laid over each other, become a `ClusterSpec` — or every problem at once.

Flags win over the file, the file over the profile. Each value remembers where it came from, so a problem
points at the line or the flag that caused it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from generator import yaml12
from generator.errors import InputError, Problem
from generator.fields import Wrong, named, settings_of
from generator.rules import check_spec
from generator.spec import ClusterSpec, read_spec

_Path = tuple[str | int, ...]
_HERE = Path(__file__).parent
# In the source tree the profiles lie beside the package; in a wheel, inside it.
PROFILES = next(path for path in (_HERE / "profiles", _HERE.parent / "profiles", _HERE) if path.is_dir())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A spec, and what is allowed but deserves a word (such as an even number of members)."""

    spec: ClusterSpec
    warnings: tuple[Problem, ...]


@dataclass(slots=True)
class _Layers:
    """The raw values laid over each other, and the origin of each: `file:line:col` or a flag."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[_Path, str] = field(default_factory=dict)

    def lay(self, value: Mapping[str, Any], origins: Mapping[_Path, str], path: _Path = ()) -> None:
        target = self.value
        for key in path:
            target = target[key]  # type: ignore[index]
        for key, item in value.items():
            here = (*path, key)
            if isinstance(item, dict) and isinstance(target.get(key), dict):
                self.lay(item, origins, here)
            else:
                target[key] = item
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
    *, profile: str = "default", config: Path | None = None, flags: Mapping[str, tuple[_Path, Any]] | None = None
) -> Loaded:
    """Lay profile, cluster file and flags over each other and check the result.

    `flags` maps a flag (`--nodes`) to the path of the field it sets and its value.
    Raises InputError with every problem found.
    """
    layers = _Layers()
    for path in filter(None, (profile_path(profile), config)):
        document = yaml12.load_file(path)
        if not isinstance(document.value, dict):
            raise InputError.one(f"{path}:1:1", "is not a mapping", "begin with `apiVersion: bake/v1`")
        _refuse_other_file(document.value, path)
        layers.lay(document.value, document.positions)
    for flag, (field_path, value) in (flags or {}).items():
        nested: dict[str, Any] = {}
        inner = nested
        for key in field_path[:-1]:
            inner = inner.setdefault(str(key), {})
        inner[str(field_path[-1])] = value
        if layers.has_room(field_path[:-1]):
            layers.lay(nested, {field_path: flag})
    return _check(layers)


def _refuse_other_file(fields: Mapping[str, Any], path: Path) -> None:
    """A file of some other kind is refused as a whole: its keys may hold secrets, and messages end up in logs."""
    known = settings_of(ClusterSpec)
    if fields and not any(get_close_matches(key, known, n=1) for key in islice(fields, 20)):
        message = "is not a cluster file: it has none of the fields"
        raise InputError.one(f"{path}:1:1", message, "begin with `apiVersion: bake/v1`")


def _check(layers: _Layers) -> Loaded:
    spec, wrong = read_spec(layers.value)
    problems = [Problem(layers.where(each.path), each.message, _hint(each)) for each in wrong]
    refused, warnings = check_spec(spec)
    problems += [Problem(layers.where(path), message, hint) for path, message, hint in refused]
    if problems:
        raise InputError(sorted(dict.fromkeys(problems), key=lambda problem: _order(problem.where)))
    return Loaded(spec, tuple(Problem(layers.where(path), message, hint) for path, message, hint in warnings))


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
