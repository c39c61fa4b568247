"""A cluster file with a comment for each field. The comments are the fields' descriptions."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field
from typing import Any

from generator.config import yaml12
from generator.config.cluster_file.schema import SCHEMA_FILE
from generator.config.fields import FieldPath, plain, settings_of
from generator.config.spec import ClusterSpec
from generator.config.user_input import put

_WIDTH = 100  # characters in a line of a comment
_INTRODUCTION = (
    "The cluster file of bake. A field that begins with # has the value of the profile {profile}. To set the field, "
    "remove the # from the line of the field and from the line of its section."
)
# These fields are always set, because a reader looks for them first.
ALWAYS: tuple[FieldPath, ...] = (("apiVersion",), ("name",), ("nodes",), ("network", "subnet"))


def commented_file(
    spec: ClusterSpec,
    chosen: Collection[FieldPath],
    blank: Collection[FieldPath] = (),
    *,
    profile: str,
    commands: Collection[str] = (),
) -> str:
    """Return a cluster file that sets the fields `chosen` to their values in `spec`, and shows all other fields.

    `blank`: fields that the file sets to null, because the user must fill them in. `profile`: the profile in `spec`.
    `commands`: commands that use the file. The file's head shows both.
    """
    head = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        *_comment(_INTRODUCTION.format(profile=profile), ""),
        *(f"# $ {command}" for command in commands),
    ]
    values = plain(spec, with_none=True)
    for path in blank:
        put(values, path, None)
    body = _lines(ClusterSpec, values, {*ALWAYS, *chosen, *blank}, ())
    return "\n".join([*head, *body]) + "\n"


def _lines(
    kind: type, values: Mapping[str, Any], chosen: Collection[FieldPath], path: FieldPath
) -> Iterator[str]:
    indent = "  " * len(path)
    for key, info in settings_of(kind).items():
        here = (*path, key)
        is_set = any(one[: len(here)] == here for one in chosen)
        mark = "" if is_set else "#"
        if not path:
            yield ""
        section = info.metadata.get("section")
        if section:
            yield f"{mark}{indent}{key}:"
            yield from _lines(section, values[key], chosen, here)
            continue
        yield from _comment(_description(info), indent)
        yield f"{mark}{indent}{_entry(key, values[key])}"


def _description(info: Field[Any]) -> str:
    return str(info.metadata["description"])


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


def _entry(key: str, value: Any) -> str:
    """Return `key: value` on one line. JSON is valid YAML, and needs one line for each value."""
    line = yaml12.dump({key: value}).rstrip("\n")
    if isinstance(value, list | dict) or "\n" in line:
        return f"{key}: {json.dumps(value)}"
    return line
