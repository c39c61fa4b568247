"""Compare two seeds of a node: which files change, and what the node must do to apply the new seed.

apply-seed uses this module on the node, and bake uses it on the operator's machine, so both always agree. The levels
are in the seed's file file-levels.json. A node uses the table of the new seed, because an older table does not know the
new seed's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

TABLE = "/usr/libexec/bake/file-levels.json"
ENV = "/etc/etcd/bake.env"
FORMAT = 1
LEVELS = ("none", "live", "restart", "reboot")  # each level includes the levels before it
PAIR = re.compile(r'(\w+)="(.*)"')


class File(NamedTuple):
    """A file that a seed writes. `mode`: the file's permissions."""

    mode: int
    content: bytes


class Seed(NamedTuple):
    """A seed's files by path, and all other settings of its user-data by name."""

    files: Mapping[str, File]
    settings: Mapping[str, Any]


class Change(NamedTuple):
    """What a node must do to apply a seed.

    `level`: one of LEVELS. `paths`: the files to write. `units`: the systemd units to restart at once.
    """

    level: str
    paths: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


def read_seed(config: Mapping[str, Any]) -> Seed:
    """Return the seed with this user-data. Raises LookupError, TypeError, ValueError or AttributeError."""
    files = {
        entry["path"]: File(int(entry.get("permissions", "0644"), 8), entry["content"].encode())
        for entry in config["write_files"]
    }
    return Seed(files, {name: value for name, value in config.items() if name != "write_files"})


def identity(seed: Seed) -> tuple[str | None, str | None]:
    """Return the name of the seed's node and the id of its cluster. BAKE_PERMIT is the name of the id."""
    values = variables(seed.files[ENV].content) or {} if ENV in seed.files else {}
    return values.get("BAKE_NAME"), values.get("BAKE_PERMIT")


def compare(old: Seed, new: Seed) -> Change:
    """Return what a node that runs the seed `old` must do to apply the seed `new`."""
    paths = tuple(path for path, file in new.files.items() if old.files.get(path) != file)
    try:
        table = json.loads(new.files[TABLE].content)
        if table["format"] != FORMAT:
            raise ValueError("unknown format")
        found = list(_needs(old, new, paths, table))
        level = max((level for level, _ in found), key=LEVELS.index, default="none")
    except (LookupError, TypeError, ValueError, AttributeError):  # no table, or a table that a newer bake wrote
        return Change("reboot", paths)
    return Change(level, paths, tuple(dict.fromkeys(unit for _, units in found for unit in units)))


def _needs(old: Seed, new: Seed, paths: tuple[str, ...], table: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield a level and units to restart for each difference."""
    if old.settings != new.settings or set(old.files) - set(new.files):  # apply-seed removes no files
        yield "reboot", []
    for path in paths:
        before, after = old.files.get(path), new.files[path].content
        if _install_section(path, before.content if before else b"") != _install_section(path, after):
            yield "reboot", []  # a unit must be enabled or disabled
        if path in table["variables"] and before:
            yield "live", []
            for name in _changed_variables(before.content, after):
                yield rule_for(table["variables"][path], name)
        else:
            yield rule_for(table["files"], path)


def rule_for(rules: list[dict[str, Any]], name: str) -> tuple[str, list[str]]:
    """Return the level and the units of the first rule that matches. Without a rule, the level is reboot."""
    for rule in rules:
        if fnmatchcase(name, rule["match"]):
            return rule["level"], rule.get("restart", [])
    return "reboot", []


def _changed_variables(old: bytes, new: bytes) -> list[str]:
    before, after = variables(old), variables(new)
    if before is None or after is None:
        raise ValueError("not an env file")
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def variables(content: bytes) -> dict[str, str] | None:
    """Return the variables in an env file, or None if a line is neither a variable nor a comment."""
    lines = [line for line in content.decode().splitlines() if line and not line.startswith("#")]
    pairs = [PAIR.fullmatch(line) for line in lines]
    return {pair[1]: pair[2] for pair in pairs if pair} if all(pairs) else None


def _install_section(path: str, content: bytes) -> bytes:
    return content.partition(b"[Install]")[2] if path.startswith("/etc/systemd/system/") else b""
