"""Build POSIX shell scripts. Every value from the user is quoted, and no comment has a value from the user."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from generator.artifact import Artifact

COMMON = """\
say() { printf '%s\\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

trap 'exit 130' INT
trap 'exit 143' HUP TERM
"""


def script(
    name: str, comment: Iterable[str], values: Mapping[str, object], body: str, calls: Iterable[Iterable[object]]
) -> Artifact:
    """Return a script that sets variables, defines the functions in `body`, and then makes `calls`.

    `comment`: lines of text from bake. `calls`: commands as lists of words, which are quoted.
    """
    assignments = [f"{variable}={shlex.quote(str(value))}" for variable, value in values.items()]
    commands = [" ".join(shlex.quote(str(word)) for word in call) for call in calls]
    lines = ["#!/bin/sh", *(f"# {line}" for line in comment)]
    if any(set(line) & set("$`") for line in assignments):
        lines.append("# shellcheck disable=SC2016  # a path has a character that the shell must not expand")
    lines += ["set -eu", "", *assignments]
    text = "\n".join([*lines, "", COMMON, body.strip("\n"), "", *commands, ""])
    return Artifact(PurePosixPath(name), text.encode(), mode=0o644)
