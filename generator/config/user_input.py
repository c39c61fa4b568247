"""The fields that the user set, apart from what followed from them: kept in the cluster's folder as `input.yaml`.

`cluster.yaml` beside it holds every field as it stands. The two together tell which fields go back to their defaults
when a new cluster file or profile no longer sets them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from generator.artifact import Artifact
from generator.config import yaml12
from generator.config.fields import Path, leaf_paths, plain
from generator.config.spec import FIELDS_ADDED, ClusterSpec, read_spec
from generator.config.values import path_text
from generator.errors import InputError
from generator.layout import INPUT

FORMAT_VERSION = "1.0"
_HEADER = """\
# What was said about this cluster: the profile, with its fields at that time, and the fields of the cluster file and
# the flags. bake writes this file and reads it; change the cluster with flags or --config FILE. cluster.yaml has every
# field as it stands.
"""
# Fields that name files on this machine.
FILES: tuple[Path, ...] = (
    ("pki", "ca", "certificate"),
    ("pki", "ca", "key"),
    ("pki", "peerCa", "certificate"),
    ("pki", "peerCa", "key"),
    ("install", "archive"),
    ("vm", "image"),
)


@dataclass(frozen=True, kw_only=True)
class Said:
    """`profile`: a name, or a file's path; None where it is not known. `fields`: of the cluster file and the flags."""

    profile: str | None
    profile_fields: Mapping[str, Any]
    fields: Mapping[str, Any]

    @property
    def paths(self) -> set[Path]:
        """Every field that was set."""
        return {*paths_of(self.profile_fields), *paths_of(self.fields)}

    def held_by(self, spec: ClusterSpec) -> Said:
        """Without the fields that have another value by now, such as a CA's after `certs rotate --ca`."""
        data, above = plain(spec), paths_of(self.fields)

        def holds(fields: Mapping[str, Any], path: Path) -> bool:
            return bool(at(fields, path) == at(data, path))

        fields = [path for path in above if holds(self.fields, path)]
        below = [path for path in paths_of(self.profile_fields) if path in above or holds(self.profile_fields, path)]
        return replace(self, fields=picked(self.fields, fields), profile_fields=picked(self.profile_fields, below))

    @property
    def file(self) -> Artifact:
        data = {
            "formatVersion": FORMAT_VERSION,
            "profile": self.profile,
            "profileFields": dict(self.profile_fields),
            "fields": dict(self.fields),
        }
        return Artifact(INPUT, f"{_HEADER}{yaml12.dump(data)}".encode())


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A cluster that was baked: its spec as plain data, where each field of it is written, and what was said.

    `said`: None for a cluster of an earlier version, which kept only the spec. `digest`: of all its files.
    `is_known`: False where cluster.yaml is not as it was baked; then `value` is empty.
    """

    where: str
    digest: str
    value: Mapping[str, Any]
    origins: Mapping[Path, str]
    said: Said | None
    said_origins: Mapping[Path, str]
    nodes: frozenset[str]  # those that have keys in the folder
    asks: bool  # keys wait for certificates of a CA elsewhere
    sealed: bool
    is_known: bool

    @property
    def spec(self) -> ClusterSpec | None:
        """None where nothing was baked yet, or it is not known what."""
        return read_spec(self.value)[0] if self.value else None

    def without_said(self) -> dict[str, Any]:
        """What stands and nobody set."""
        return without(self.value, self.said.paths if self.said else ())


def parse_said(text: str, source: str) -> tuple[Said, dict[Path, str]]:
    """What a kept file says, and where each of its fields is written. Raises InputError for another file."""
    document = yaml12.load_text(text, source)
    match document.value:
        case {"profile": str() | None as profile, "profileFields": dict() as below, "fields": dict() as fields}:
            origins = {path[1:]: where for path, where in document.positions.items() if path[:1] == ("fields",)}
            return Said(profile=profile, profile_fields=below, fields=fields), origins
    raise InputError.one(source, "is not what bake wrote", "restore the file")


def canonical(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that raw data sets, each as the spec has it; without those that are refused."""
    spec, wrong = read_spec(raw)
    refused = {each.path for each in wrong}
    good = [path for path in paths_of(raw) if not any(each[: len(path)] == path for each in refused)]
    return picked(plain(spec), good)


def paths_of(raw: Mapping[str, Any]) -> list[Path]:
    """The fields that raw data sets. The name is not one of them: it is the folder's."""
    return [path for path in leaf_paths(ClusterSpec, raw) if path[0] not in ("name", "apiVersion")]


def absolute(raw: Mapping[str, Any], folder: FilePath) -> dict[str, Any]:
    """Raw data with the paths of files as they are from anywhere, where such a path can be kept."""
    data = without(raw, ())
    for path in FILES:
        value = at(raw, path)
        if isinstance(value, str) and value and "://" not in value:
            full = str(folder / value)
            try:
                put(data, path, path_text(full))
            except ValueError:  # a folder that cannot be written into a spec: it stays as it was given
                continue
    return data


def with_added(value: Mapping[str, Any]) -> dict[str, Any]:
    """A kept spec with the fields that came after it, each with the value that was in force without it."""
    data = without(value, ())
    for path, old in FIELDS_ADDED.items():
        if at(data, path) is None:
            put(data, path, old)
    return data


# --- plain data by paths --------------------------------------------------------------------------------------


def at(data: Any, path: Path) -> Any:
    """The value at a path; None where there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def put(data: dict[str, Any], path: Path, value: Any) -> None:
    """Set the value at a path; the sections on the way are made."""
    for key in path[:-1]:
        data = data.setdefault(str(key), {})
    data[str(path[-1])] = value


def picked(data: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """A part of the data: the values at these paths."""
    found: dict[str, Any] = {}
    for path in paths:
        put(found, path, at(data, path))
    return found


def without(data: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """A copy of the data without the values at these paths."""
    left = {key: without(value, ()) if isinstance(value, Mapping) else value for key, value in data.items()}
    for path in paths:
        section = at(left, path[:-1])
        if isinstance(section, dict):
            section.pop(path[-1], None)
    return left


def flat(data: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    """Each value of plain data by its path; a list is one value."""
    found: dict[Path, Any] = {}
    for key, value in data.items():
        found |= flat(value, (*path, key)) if isinstance(value, Mapping) else {(*path, key): value}
    return found
