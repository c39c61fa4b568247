"""A strict reader of YAML 1.2 (core schema) that returns the position of every value.

PyYAML's loaders follow YAML 1.1, which reads `no` as False, `0644` as 420 and `12:30` as 750. PyYAML's loaders accept
duplicate keys without a warning, and expand aliases. With aliases, a small file can exhaust the memory. This module
follows YAML 1.2 and refuses duplicate keys and aliases.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from generator.config.fields import MAX_DIGITS, FieldPath, shown_key
from generator.errors import InputError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
_TOO_DEEP, _FLATTEN = f"is nested deeper than {MAX_DEPTH} levels", "no field needs so many levels: remove some of them"
_CHECK = "check indentation, quotes and brackets"

# YAML 1.2.2, section 10.3.2: tag resolution of the core schema.
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class Document(NamedTuple):
    """The value of a YAML document, and the position of each value in it.

    `positions` maps a path such as `("nodes", 0, "name")` to `file:line:col`; lines and columns start at 1.
    """

    value: Any
    positions: dict[FieldPath, str]


class _RefusedError(Exception):
    def __init__(self, mark: Any, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint = mark, message, hint


def load_file(path: Path) -> Document:
    """Read one YAML file. Raises InputError if the file is invalid or too large."""
    return load_text(_read(path), str(path))


def load_text(text: str, source: str) -> Document:
    """Read one YAML document. `source`: the file's name for messages. Raises InputError."""
    reader = _Reader(source)
    try:
        value = reader.read(text)
    except _RefusedError as refused:
        raise InputError([Problem(reader.where(refused.mark), refused.message, refused.hint)]) from None
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or "cannot be read"
        if "nesting depth" in message:  # since PyYAML 6.0.4, libyaml refuses deeply nested files
            raise InputError.one(reader.where(mark), _TOO_DEEP, _FLATTEN) from None
        has_tab = bool(mark) and any("\t" in line[: mark.column + 1] for line in text.splitlines()[mark.line :][:1])
        hint = "use spaces: YAML does not allow tabs for indentation" if has_tab else _CHECK
        raise InputError.one(reader.where(mark), f"is not YAML: {message}", hint) from None
    if reader.problems:
        raise InputError(reader.problems)
    return Document(value, reader.positions)


def _read(path: Path) -> str:
    where = str(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError.one(where, f"cannot be read: {error.strerror}", "check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError.one(where, "is not a regular file", "give the path of a YAML file")
    if status.st_size > MAX_BYTES:
        raise InputError.one(
            where, f"has {status.st_size} bytes; a cluster file has at most {MAX_BYTES}", "check the path"
        )
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError.one(where, f"cannot be read: {error.strerror}", "check its owner and mode") from None
    except UnicodeDecodeError as error:
        raise InputError.one(where, f"is not UTF-8 (byte {error.start})", "save the file as UTF-8") from None


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.positions: dict[FieldPath, str] = {}
        self.problems: list[Problem] = []
        self.events: Iterator[Any] = iter(())

    def where(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}" if mark else self.source

    def read(self, text: str) -> Any:
        self.events = iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        next(self.events)  # StreamStart
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self._node(next(self.events), ())
        next(self.events)  # DocumentEnd
        end = next(self.events)
        if isinstance(end, yaml.DocumentStartEvent):
            raise _RefusedError(end.start_mark, "begins a second document", "keep one document in the file")
        return value

    def _node(self, event: Any, path: FieldPath) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise _RefusedError(event.start_mark, "uses an anchor or alias", "repeat the value instead")
        if event.tag:
            is_standard = event.tag.startswith(("tag:yaml.org,2002:", "! ")) or event.tag == "!"
            rule = f"uses the tag {event.tag}" if is_standard else "uses a custom tag"
            raise _RefusedError(event.start_mark, rule, "remove the tag")
        if len(path) > MAX_DEPTH:
            raise _RefusedError(event.start_mark, _TOO_DEEP, _FLATTEN)
        self.positions.setdefault(path, self.where(event.start_mark))
        if isinstance(event, yaml.ScalarEvent):
            return _resolve(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _sequence(self, path: FieldPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: FieldPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
                raise _RefusedError(event.start_mark, "is not a plain key", "write the key as a word")
            key, where = event.value, self.where(event.start_mark)
            if key in found:
                self.problems.append(Problem(where, f"the key {shown_key(key)!r} appears twice", "remove one of them"))
            self.positions[*path, key] = where
            found[key] = self._node(next(self.events), (*path, key))
        return found


def _resolve(text: str) -> Any:
    """Return the value of a plain scalar."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) <= MAX_DIGITS and _INT.fullmatch(text):  # fields for numbers refuse longer integers, as strings
        return int(text)
    if len(text) <= 40 and set(text) & set(".eE") and _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A dumper that puts quotes around ambiguous text.

    For example, `1e3` is ambiguous: YAML 1.1 reads `1e3` as text, and YAML 1.2 reads `1e3` as a number.
    """


def _represent_text(dumper: Any, text: str) -> Any:
    style = None if _resolve(text) is text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(value: Any) -> str:
    """Return a YAML document that has the same value in YAML 1.1 and YAML 1.2."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text
