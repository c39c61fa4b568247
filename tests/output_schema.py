"""The output of `-o json`, compared with docs/reference/output.schema.json.

The schema allows further keys, because a later bake may have more. Here, each key must be described.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "docs/reference/output.schema.json").read_text())


def strict(schema: Any) -> Any:
    """Return the schema without room for further keys."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found


@cache
def validator(command: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a command's data. `command`: words such as `bake certs rotate`."""
    return jsonschema.Draft202012Validator(
        {"$defs": strict(SCHEMA["$defs"]), "$ref": f"#/$defs/{command.replace(' ', '-')}"}
    )


def command_of(words: Sequence[str]) -> str:
    """Return the command that bake would run. An option's value is not taken for a command."""
    from generator import cli

    found, group = ["bake"], cli.bake
    for word in words:
        if isinstance(group, click.Group) and word in group.commands:
            found.append(word)
            group = group.commands[word]  # type: ignore[assignment]
    return "bake export" if found[:2] == ["bake", "export"] else " ".join(found)


def check_output(words: Sequence[str], text: str) -> None:
    """Fail if `text` is a document with keys that the schema does not describe, or with other values."""
    if "json" not in words and "-ojson" not in words:
        return
    document = json.loads(text)
    document.pop("format_version")
    document.pop("diagnostics")
    command = command_of(words)
    if document and command.replace(" ", "-") in SCHEMA["$defs"]:  # a command that only a test has is not there
        errors = [f"{error.json_path}: {error.message}" for error in validator(command).iter_errors(document)]
        assert errors == [], f"{command}: {errors}"
