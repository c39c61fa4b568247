"""Problems and warnings as data: with `-o json`, stdout is one JSON document with the data of the command, if there is
any, and the list `diagnostics`. docs/reference/output.schema.json has the shape.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click

FORMAT_VERSION = "1.2"  # an incompatible change increases the first number, a new key the second
_AT = re.compile(r"(?P<file>.+?):(?P<line>\d+):(?P<column>\d+)(: (?P<field>.+))?", re.DOTALL)
_WARNING, _HINT = "warning: ", "\n  hint: "
_KEY = "generator.cli.output"  # a key in the object of click's root context


class Diagnostic(NamedTuple):
    """A problem or a warning. An unknown value is None.

    `summary`: the wrong value and the rule. `detail`: the place and the summary, as in the text output. `field`: the
    path of a field of the cluster file. `line` and `column` start at 1.
    """

    severity: str
    summary: str
    detail: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    field: str | None = None
    hint: str | None = None


@dataclass(slots=True)
class Output:
    """What a command has to say as JSON. `data`: None if the command has printed no data."""

    data: dict[str, Any] | None = None
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def print(self) -> None:
        listed = [one._asdict() for one in dict.fromkeys(self.diagnostics)]
        document = {"format_version": FORMAT_VERSION, **(self.data or {}), "diagnostics": listed}
        click.echo(json.dumps(document, indent=2))


def begin(settings: dict[str, Any]) -> Output:
    """Collect the output of a command. `settings`: the object of click's root context."""
    output = settings[_KEY] = Output()
    return output


def _output() -> Output | None:
    context = click.get_current_context(silent=True)
    settings = context.find_root().obj if context else None
    return settings.get(_KEY) if isinstance(settings, dict) else None


def set_data(values: Mapping[str, Any]) -> None:
    """Print the data of a command when the command ends, together with its diagnostics."""
    output = _output()
    if output is None:  # a function was called without the command line
        Output(dict(values)).print()
    else:
        output.data = dict(values)


def note_warning(line: str) -> None:
    """Add a line of text to the diagnostics if it is a warning."""
    output = _output()
    if output is not None and line.startswith(_WARNING):
        text, _, hint = line.removeprefix(_WARNING).partition(_HINT)
        output.diagnostics.append(Diagnostic(severity="warning", summary=text, detail=text, hint=hint or None))


def note_problem(where: str, message: str, hint: str | None, *, severity: str = "error") -> None:
    """Add a `Problem` to the diagnostics of the running command."""
    output = _output()
    if output is not None:
        output.diagnostics.append(located(where, message, hint, severity=severity))


def located(where: str, message: str, hint: str | None, *, severity: str = "error") -> Diagnostic:
    """Return the diagnostic of a `Problem`, whose place is a position in a file, an option, a field or a path."""
    detail = f"{where}: {message}" if where else message
    place: dict[str, Any] = {}
    if found := _AT.fullmatch(where):
        place = {"file": found["file"], "line": int(found["line"]), "column": int(found["column"])}
        place["field"] = found["field"]
    elif where.startswith("--"):
        place = {"field": _field_of(where)}
    elif _is_field(where):
        place = {"field": where}
    elif "/" in where or (where and Path(where).exists()):
        place = {"file": where}
    return Diagnostic(severity=severity, summary=message, detail=detail, hint=hint, **place)


def _field_of(flag: str) -> str | None:
    from generator.cli.options import SPEC_FLAGS

    return ".".join(SPEC_FLAGS[flag][0]) if flag in SPEC_FLAGS else None


def _is_field(where: str) -> bool:
    from generator.config.fields import settings_of
    from generator.config.spec import ClusterSpec

    return re.split(r"[.\[]", where)[0] in settings_of(ClusterSpec)


def diagnostics_of(error: BaseException) -> Iterator[Diagnostic]:
    """Yield the diagnostics of an error that ended a command."""
    from generator.errors import BakeError, InputError

    if isinstance(error, InputError):
        yield from (located(one.where, one.message, one.hint) for one in error.problems)
    elif isinstance(error, BakeError):
        yield located("", error.message, error.hint)
    elif isinstance(error, click.ClickException):
        option = getattr(error, "param", None)
        flag = max(option.opts, key=len) if isinstance(option, click.Option) else ""
        context = getattr(error, "ctx", None)
        hint = f"see {context.command_path} --help" if context else None
        text = error.format_message()
        yield Diagnostic(severity="error", summary=text, detail=text, field=_field_of(flag), hint=hint)
    else:
        text = str(error)
        yield Diagnostic(severity="error", summary=text, detail=text)


def wants_json(words: Sequence[str] = ()) -> bool:
    """Return whether the command line or the environment asks for JSON, also if click could not read the words."""
    words = words or sys.argv[1:]
    for place, word in enumerate(words):
        if word in ("-o", "--output") and words[place + 1 : place + 2]:
            return words[place + 1] == "json"
        if word in ("-ojson", "--output=json"):
            return True
    return os.environ.get("BAKE_OUTPUT") == "json"
