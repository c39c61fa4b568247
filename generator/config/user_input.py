"""The fields that the user set. bake stores them in the cluster's folder as `input.yaml`.

The file `cluster.yaml` has the value of every field. bake compares `input.yaml` with `cluster.yaml` to find
the fields that a new cluster file or profile no longer sets. A field that is no longer set returns to its default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from generator.artifact import Artifact
from generator.config import yaml12
from generator.config.fields import FieldPath, leaf_paths, plain
from generator.config.spec import FIELDS_ADDED, ClusterSpec, read_spec
from generator.config.values import path_text
from generator.errors import InputError
from generator.layout import INPUT

FORMAT_VERSION = "1.0"
_HEADER = """\
# The user's input for this cluster: the fields from the profile, from the cluster file and from flags. Do not edit
# this file: change the cluster with flags or --config FILE. cluster.yaml has the value of every field.
"""
# Fields whose values are paths of files on the machine that runs bake.
FILES: tuple[FieldPath, ...] = (
    ("pki", "ca", "certificate"),
    ("pki", "ca", "key"),
    ("pki", "peerCa", "certificate"),
    ("pki", "peerCa", "key"),
    ("install", "archive"),
    ("vm", "image"),
)


class UserInput(NamedTuple):
    """The user's input.

    `profile`: the profile's name or path; None if it is not known. `profile_fields`: the fields that the profile sets.
    `fields`: the fields that the cluster file and the flags set.
    """

    profile: str | None
    profile_fields: Mapping[str, Any]
    fields: Mapping[str, Any]

    @property
    def paths(self) -> set[FieldPath]:
        """The path of every field that the profile, the cluster file or a flag sets."""
        return {*paths_of(self.profile_fields), *paths_of(self.fields)}

    def matching(self, spec: ClusterSpec) -> UserInput:
        """Return the input without fields that differ from `spec`.

        For example, `pki.ca` differs after `certs rotate --ca`.
        """
        data, above = plain(spec), paths_of(self.fields)

        def holds(fields: Mapping[str, Any], path: FieldPath) -> bool:
            return bool(at(fields, path) == at(data, path))

        fields = [path for path in above if holds(self.fields, path)]
        below = [path for path in paths_of(self.profile_fields) if path in above or holds(self.profile_fields, path)]
        return self._replace(fields=picked(self.fields, fields), profile_fields=picked(self.profile_fields, below))

    @property
    def file(self) -> Artifact:
        data = {
            "formatVersion": FORMAT_VERSION,
            "profile": self.profile,
            "profileFields": dict(self.profile_fields),
            "fields": dict(self.fields),
        }
        return Artifact(INPUT, f"{_HEADER}{yaml12.dump(data)}".encode())


class ExistingCluster(NamedTuple):
    """An existing cluster: the fields in cluster.yaml (`value`), their positions (`origins`), and the user's input.

    `user_input`: None if an older version of bake wrote the cluster without the user's input. `digest`: the digest of
    all files in the folder. `is_known`: whether cluster.yaml is unchanged since bake wrote it. If cluster.yaml was
    changed, `value` is empty.
    """

    where: str
    digest: str
    value: Mapping[str, Any]
    origins: Mapping[FieldPath, str]
    user_input: UserInput | None
    input_origins: Mapping[FieldPath, str]
    nodes: frozenset[str]  # nodes whose keys are in the cluster's folder
    has_requests: bool  # whether an external CA must still sign certificate requests
    sealed: bool
    is_known: bool

    @property
    def spec(self) -> ClusterSpec | None:
        """The spec in cluster.yaml. None if cluster.yaml is missing or was changed after bake wrote it."""
        return read_spec(self.value)[0] if self.value else None

    def fields_not_set(self) -> dict[str, Any]:
        """Return the fields that the user did not set."""
        return without(self.value, self.user_input.paths if self.user_input else ())


def parse_input(text: str, source: str) -> tuple[UserInput, dict[FieldPath, str]]:
    """Return the content of an `input.yaml`, and the position of each field. Raises InputError."""
    document = yaml12.load_text(text, source)
    match document.value:
        case {"profile": str() | None as profile, "profileFields": dict() as below, "fields": dict() as fields}:
            origins = {path[1:]: where for path, where in document.positions.items() if path[:1] == ("fields",)}
            return UserInput(profile=profile, profile_fields=below, fields=fields), origins
    raise InputError.one(source, "has content that bake did not write", "restore the file")


def canonical(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid fields of a cluster file or profile, in the notation of cluster.yaml."""
    spec, wrong = read_spec(raw)
    refused = {each.path for each in wrong}
    good = [path for path in paths_of(raw) if not any(each[: len(path)] == path for each in refused)]
    return picked(plain(spec), good)


def paths_of(raw: Mapping[str, Any]) -> list[FieldPath]:
    """Return the path of each field in the data of a cluster file, except `name` and `apiVersion`."""
    return [path for path in leaf_paths(ClusterSpec, raw) if path[0] not in ("name", "apiVersion")]


def absolute(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the data of a cluster file with absolute paths instead of relative paths.

    If the absolute path would be invalid in a spec, the path stays unchanged.
    """
    data = without(raw, ())
    for path in FILES:
        value = at(raw, path)
        if isinstance(value, str) and value and "://" not in value:
            full = str(folder / value)
            try:
                put(data, path, path_text(full))
            except ValueError:  # the absolute path is too long or is not printable ASCII
                continue
    return data


def with_added(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a cluster.yaml. `FIELDS_ADDED` gives the values of fields that an older cluster.yaml lacks."""
    data = without(value, ())
    for path, old in FIELDS_ADDED.items():
        if at(data, path) is None:
            put(data, path, old)
    return data


# --- values of plain data by their paths -----------------------------------------------------------------------


def at(data: Any, path: FieldPath) -> Any:
    """Return the value at a path, or None."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def put(data: dict[str, Any], path: FieldPath, value: Any) -> None:
    """Set the value at a path; create missing sections."""
    for key in path[:-1]:
        data = data.setdefault(str(key), {})
    data[str(path[-1])] = value


def picked(data: Mapping[str, Any], paths: Iterable[FieldPath]) -> dict[str, Any]:
    """Return a copy of the data with only the values at `paths`."""
    found: dict[str, Any] = {}
    for path in paths:
        put(found, path, at(data, path))
    return found


def without(data: Mapping[str, Any], paths: Iterable[FieldPath]) -> dict[str, Any]:
    """Return a copy of the data without the values at `paths`."""
    left = {key: without(value, ()) if isinstance(value, Mapping) else value for key, value in data.items()}
    for path in paths:
        section = at(left, path[:-1])
        if isinstance(section, dict):
            section.pop(path[-1], None)
    return left


def flat(data: Mapping[str, Any], path: FieldPath = ()) -> dict[FieldPath, Any]:
    """Return a mapping of paths to values. A list is one value."""
    found: dict[FieldPath, Any] = {}
    for key, value in data.items():
        found |= flat(value, (*path, key)) if isinstance(value, Mapping) else {(*path, key): value}
    return found
