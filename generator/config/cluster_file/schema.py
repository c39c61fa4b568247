"""The JSON Schema of the cluster file, made from the fields of `ClusterSpec`.

The schema accepts every file that bake accepts. It does not know the rules between fields, which only bake checks.
"""

from __future__ import annotations

import json

from generator.config.fields import Schema, section_schema
from generator.config.spec import ClusterSpec

SCHEMA_FILE = "bake.schema.json"  # `bake init` writes the schema next to the cluster file
_ID = "urn:bake:schema:cluster-file:v1"


def cluster_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a cluster file or profile."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID,
        "title": "cluster file of bake",
        **section_schema(ClusterSpec),
    }


def schema_text() -> str:
    return json.dumps(cluster_schema(), indent=2) + "\n"


def is_cluster_schema(text: str) -> bool:
    """Return whether a text is a schema that this or another version of bake wrote."""
    try:
        data = json.loads(text)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("$id") == _ID
