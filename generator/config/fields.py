"""Read and write the sections of a cluster file. Each section is a frozen dataclass.

`setting` and `section` declare the fields of a section. A field with an invalid value gets its default, so that bake
can still check the other fields and report all problems at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, NamedTuple, TypeVar

FieldPath = tuple[str | int, ...]
Finding = tuple[FieldPath, str, str | None]  # a field, what is wrong with its value, and the remedy
Schema = dict[str, Any]  # a JSON Schema (draft 2020-12)
T = TypeVar("T")
_REFUSED = object()
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}|<<")
MAX_DIGITS = 20  # the module `yaml12` reads a number with more characters as text
_WORDS = {None: "null", True: "true", False: "false"}  # the words of YAML
_TEXTUAL = (Enum, IPv4Address, IPv4Network, IPv6Address, IPv6Network)


class FieldProblem(NamedTuple):
    """An invalid value or an unknown field. `known`: for an unknown field, the names of the valid fields."""

    path: FieldPath
    message: str
    hint: str | None = None
    known: tuple[str, ...] = ()


class Parse(NamedTuple, Generic[T]):
    """Convert a value, or raise ValueError with a message such as "'x' is not a string".

    `schema`: a JSON Schema that accepts every value that `function` accepts.
    """

    function: Callable[[Any], T]
    schema: Schema

    def __call__(self, value: object) -> T:
        return self.function(value)


def accepts(**schema: Any) -> Callable[[Callable[[Any], T]], Parse[T]]:
    """Return a decorator that makes a `Parse` of a function."""
    return lambda function: Parse(function, schema)


class Read(NamedTuple):
    """Return a field's value, and add the field's problems to a list. `schema`: as in `Parse`."""

    function: Callable[[Any, FieldPath, list[FieldProblem]], Any]
    schema: Schema

    def __call__(self, value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        return self.function(value, path, wrong)

    def limited(self, **schema: Any) -> Read:
        """Return the same reader with more keywords in its schema, for a rule that the module `rules` checks."""
        return Read(self.function, self.schema | schema)


def setting(read: Read, description: str, *, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Return a dataclass field for a value. `description`: text that describes the valid values.

    A field with the default None accepts null.
    """
    metadata = {"read": read, "description": description}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type[T], *, flag: str | None = None) -> T:
    """Return a dataclass field for a section.

    A file can have `true` or `false` instead of the section. `flag`: the field that gets `true` or `false`.
    """
    return field(default_factory=kind, metadata={"read": section_of(kind, flag), "section": kind, "flag": flag})


def scalar(parse: Parse[Any]) -> Read:
    """Return a function that reads a single value."""

    def read(value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            wrong.append(FieldProblem(path, str(error)))
            return _REFUSED

    return Read(read, parse.schema)


def list_of(read_item: Read) -> Read:
    """Return a function that reads a list and leaves out invalid items."""

    def read(value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        if not isinstance(value, list | tuple):
            wrong.append(FieldProblem(path, f"{shown_value(value)} is not a list"))
            return _REFUSED
        items = [read_item(item, (*path, index), wrong) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not _REFUSED)

    return Read(read, {"type": "array", "items": read_item.schema})


def mapping_of(read_item: Read, properties: Mapping[str, Schema]) -> Read:
    """Return a function that reads a mapping and leaves out invalid items.

    `properties`: the schema of each key that the module `rules` accepts.
    """

    def read(value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        if not isinstance(value, dict):
            wrong.append(FieldProblem(path, f"{shown_value(value)} is not a section of fields"))
            return _REFUSED
        items = {key: read_item(item, (*path, key), wrong) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _REFUSED}

    return Read(read, {"type": "object", "properties": dict(properties), "additionalProperties": False})


def list_or(read_list: Read, read_other: Read) -> Read:
    """Return a function that reads lists with `read_list` and other values with `read_other`."""

    def read(value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        return (read_list if isinstance(value, list | tuple) else read_other)(value, path, wrong)

    return Read(read, {"anyOf": [read_other.schema, read_list.schema]})


def section_of(kind: type[T], flag: str | None = None) -> Read:
    """Return a function that reads a section with the fields of the dataclass `kind`."""

    def read(value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
        if isinstance(value, kind):
            return value
        if flag and isinstance(value, bool):
            value = {flag: value}
        if not isinstance(value, dict):
            rule = "is not true, false or a section of fields" if flag else "is not a section of fields"
            wrong.append(FieldProblem(path, f"{shown_value(value)} {rule}", _section_hint(kind, flag)))
            return kind(**dict(_read_fields(kind, {}, path, [])))  # in a list, later items keep their positions
        return kind(**dict(_read_fields(kind, value, path, wrong)))

    schema = section_schema(kind)
    return Read(read, {"anyOf": [{"type": "boolean"}, schema]} if flag else schema)


def section_schema(kind: Any) -> Schema:
    """Return the JSON Schema of a section: its fields with their descriptions, defaults and valid values."""
    known = settings_of(kind)
    needed = [key for key, info in known.items() if info.default is MISSING and info.default_factory is MISSING]
    schema = {"type": "object", "properties": {key: _field_schema(info) for key, info in known.items()}}
    return {**schema, **({"required": needed} if needed else {}), "additionalProperties": False}


def _field_schema(info: Field[Any]) -> Schema:
    schema: Schema = info.metadata["read"].schema
    if "description" in info.metadata:
        schema = {"description": info.metadata["description"], **schema}
    if info.default is None:
        return _nullable(schema)
    return schema if info.default is MISSING else {**schema, "default": plain(info.default)}


def _nullable(schema: Schema) -> Schema:
    kind, more = schema["type"], {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **more, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}


def _section_hint(kind: Any, flag: str | None) -> str:
    return ("true, false, or " if flag else "") + f"a section with these fields: {', '.join(settings_of(kind))}"


def _read_fields(
    kind: Any, value: Mapping[str, Any], path: FieldPath, wrong: list[FieldProblem]
) -> Iterator[tuple[str, Any]]:
    known = settings_of(kind)
    wrong += [
        FieldProblem((*path, key), f"there is no field {shown_key(key)!r}", known=tuple(known))
        for key in value
        if key not in known
    ]
    for key, info in known.items():
        found = _read_field(info, value[key], (*path, key), wrong) if key in value else _REFUSED
        if found is not _REFUSED:
            yield info.name, found
        elif info.default is MISSING and info.default_factory is MISSING:
            if key not in value:
                wrong.append(FieldProblem((*path, key), "is missing", info.metadata["description"]))
            yield info.name, f"unnamed{path[-1]}"  # keep a node without a name, so that the number of nodes is right


def _read_field(info: Field[Any], value: Any, path: FieldPath, wrong: list[FieldProblem]) -> Any:
    if value is None and info.default is None:
        return None
    inner: list[FieldProblem] = []
    found = info.metadata["read"](value, path, inner)
    hint = info.metadata.get("description")
    wrong += [FieldProblem(w.path, w.message, w.hint or (None if w.known else hint), w.known) for w in inner]
    return found


@cache
def settings_of(kind: Any) -> dict[str, Field[Any]]:
    """Return a section's fields. Each key is the field's name in a cluster file."""
    return {camel(info.name): info for info in fields(kind)}


def leaf_paths(kind: Any, data: Mapping[str, Any], path: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the path of each field in a cluster file. A list has one path; each key of a mapping has a path."""
    for key, value in data.items():
        info, here = settings_of(kind).get(key), (*path, key)
        section_kind = info.metadata.get("section") if info else None
        if section_kind and isinstance(value, dict):
            yield from leaf_paths(section_kind, value, here)
        elif section_kind and info and info.metadata["flag"]:
            yield (*here, info.metadata["flag"])
        elif isinstance(value, dict):
            yield from ((*here, entry) for entry in value)
        else:
            yield here


def camel(name: str) -> str:
    """Return a field's name in a cluster file, such as `firstIp` for `first_ip`."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def plain(value: Any, *, with_none: bool = False) -> Any:
    """Return a section as dicts, lists and strings, as in a cluster file. `with_none`: include null values."""
    if is_dataclass(value):
        items = {camel(info.name): getattr(value, info.name) for info in fields(value)}
        return {key: plain(item, with_none=with_none) for key, item in items.items() if with_none or item is not None}
    if isinstance(value, tuple):
        return [plain(item, with_none=with_none) for item in value]
    return str(value) if isinstance(value, _TEXTUAL) else dict(value) if isinstance(value, dict) else value


def shown_key(key: object) -> str:
    """Return a key for a message. An invalid field name is shown as `…`, because the user may have pasted a secret."""
    return str(key) if _FIELD.fullmatch(str(key)) else "…"


def shown_value(value: object) -> str:
    """Return a value for a message, at most 80 characters long. Text is quoted, with unprintable characters escaped."""
    text = _WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def no_integer(value: object) -> str:
    """Return the end of the message about a value that is no integer: the remedy for text of digits, or ""."""
    if not isinstance(value, str) or not value.removeprefix("-").isdecimal():
        return ""
    return "; remove the quotes" if len(value) <= MAX_DIGITS else f": it has more than {MAX_DIGITS - 1} digits"


def value_text(value: Any) -> str:
    """Return a value as text for a message, such as `true` for True and `a, b` for a list."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def duplicates(values: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Return the position of each value that appeared before, and the position of its first appearance."""
    seen: dict[object, int] = {}
    for index, value in enumerate(values):
        if value in seen:
            yield index, seen[value]
        seen.setdefault(value, index)
