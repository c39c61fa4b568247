"""The values that a shell suggests for options and arguments: clusters, nodes, hosts, profiles, and words of fields.

A shell asks at each press of the tab key, so the functions read only local files, and never raise an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from generator.layout import CLIENTS
from generator.operations.hints import DEFAULT_NAME, DEFAULT_OUT

Suggest = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _suggesting(values: Callable[[click.Context], Iterable[str]], *, files: bool = False) -> Suggest:
    """Return a function for click's `shell_complete`. `files`: the shell also suggests files."""

    def suggest(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        try:
            found = [CompletionItem(value) for value in values(ctx) if value.startswith(incomplete)]
        except Exception:  # a shell has no place for a message
            found = []
        return found or ([CompletionItem(incomplete, type="file")] if files else [])

    return suggest


def _value(ctx: click.Context, option: str, default: str) -> str:
    return str(ctx.params.get(option) or os.environ.get(f"BAKE_{option.upper()}") or default)


def _out(ctx: click.Context) -> Path:
    return Path(_value(ctx, "out", DEFAULT_OUT))


def _clusters(ctx: click.Context) -> list[str]:
    return sorted(path.parent.name for path in _out(ctx).glob("*/manifest.json"))


def _nodes(ctx: click.Context) -> list[str]:
    return sorted(path.parent.name for path in (_out(ctx) / _value(ctx, "name", DEFAULT_NAME)).glob("*/meta-data"))


def _hosts(ctx: click.Context) -> list[str]:
    """Return the hosts and the nodes' hosts in the cluster file of --config, or in the cluster's folder."""
    from generator.config import yaml12
    from generator.layout import SPEC

    kept = _out(ctx) / _value(ctx, "name", DEFAULT_NAME) / SPEC
    fields: Any = yaml12.load_file(Path(_value(ctx, "config", str(kept)))).value
    nodes = fields.get("nodes")
    found = [one["name"] for one in fields.get("hosts") or []]
    found += [one["host"] for one in (nodes if isinstance(nodes, list) else []) if one.get("host")]
    return sorted(set(found))


def _profiles(_ctx: click.Context) -> list[str]:
    from generator.config.load import profile_names

    return profile_names()


def _paths(ctx: click.Context) -> list[str]:
    from generator.seed.iso import USER_DATA, written_files

    node = _out(ctx) / _value(ctx, "name", DEFAULT_NAME) / str(ctx.params["node"])
    return list(written_files((node / USER_DATA).read_bytes(), where=""))


def _words_of(path: tuple[str, ...]) -> Suggest:
    """Return a function that suggests the valid words of a field of the cluster file."""

    def words(_ctx: click.Context) -> list[str]:
        from generator.config.cluster_file.schema import cluster_schema

        schema: Any = cluster_schema()
        for key in path:
            schema = schema["properties"][key]
        return [word for word in schema.get("enum", ()) if isinstance(word, str)]

    return _suggesting(words)


def _clients(ctx: click.Context) -> list[str]:
    folder = _out(ctx) / _value(ctx, "name", DEFAULT_NAME)
    return sorted(path.parent.name for path in folder.glob(f"{CLIENTS}/*/client.json"))


suggest_client = _suggesting(_clients)
suggest_node = _suggesting(_nodes)
suggest_certificate = _suggesting(lambda ctx: [*_nodes(ctx), "operator"])
suggest_path = _suggesting(_paths)
_suggest_cluster = _suggesting(_clusters)
_OPTIONS: dict[str, Suggest] = {
    "--name": _suggest_cluster,
    "--profile": _suggesting(_profiles, files=True),
    "--node": suggest_node,
    "--host": _suggesting(_hosts),
}


def suggestion_for(flag: str, path: tuple[str, ...] = ()) -> dict[str, Suggest]:
    """Return the setting `shell_complete` of an option, if there is one. `path`: the field that the option sets."""
    if flag in _OPTIONS:
        return {"shell_complete": _OPTIONS[flag]}
    return {"shell_complete": _words_of(path)} if path else {}
