"""Protocol Buffers, as far as etcd's API needs them: varints, text, bytes, and messages of those.

A message is a dict by field name. A field that is unset in the bytes has its type's default, a message that is unset is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """How a field's value is written. `SIGNED` and `UNSIGNED` have 64 bits; enumerations are unsigned here."""

    SIGNED = "int64"
    UNSIGNED = "uint64"
    FLAG = "bool"
    TEXT = "string"
    BYTES = "bytes"

    @property
    def default(self) -> Any:
        return {Kind.FLAG: False, Kind.TEXT: "", Kind.BYTES: b""}.get(self, 0)


@dataclass(frozen=True, slots=True)
class Field:
    number: int
    kind: Kind | Mapping[str, Field]  # a mapping: a message of these fields
    repeated: bool = False


Message = Mapping[str, Field]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_WRAP = 1 << 64


def encode(message: Message, values: Mapping[str, Any]) -> bytes:
    """The bytes of a message; what is default is left out. Nothing that we send has a message or a list in it."""
    return b"".join(_encode_field(message[name], value) for name, value in values.items() if value)


def _encode_field(field: Field, value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(field.number << 3 | _VARINT) + _varint(value % _WRAP)
    data = value.encode() if isinstance(value, str) else value
    return _varint(field.number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def decode(message: Message, data: bytes) -> dict[str, Any]:
    """The values of a message; fields that it does not have are passed over. Raises ValueError for other bytes."""
    numbers = {field.number: (name, field) for name, field in message.items()}
    found: dict[str, Any] = {}
    for name, field in message.items():
        if field.repeated:
            found[name] = ()
        elif isinstance(field.kind, Kind):
            found[name] = field.kind.default
    for number, wire, raw in _fields(data):
        if number in numbers:
            name, field = numbers[number]
            value = _value(field.kind, wire, raw)
            found[name] = (*found[name], value) if field.repeated else value
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Each field's number, wire type and raw value."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield key >> 3, wire, value
            continue
        size, at = _size(data, at, wire)
        if at + size > len(data):
            raise ValueError("a message that is cut short")
        yield key >> 3, wire, data[at : at + size]
        at += size


def _size(data: bytes, at: int, wire: int) -> tuple[int, int]:
    if wire == _BYTES:
        return _read_varint(data, at)
    if wire in (_FIXED64, _FIXED32):
        return (8 if wire == _FIXED64 else 4), at
    raise ValueError(f"no wire type {wire}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value % _WRAP, at + index + 1
    raise ValueError("a number that is cut short")


def _value(kind: Kind | Message, wire: int, raw: Any) -> Any:
    is_number = kind in (Kind.SIGNED, Kind.UNSIGNED, Kind.FLAG)
    if wire != (_VARINT if is_number else _BYTES):
        raise ValueError("a field of another type")
    if not isinstance(kind, Kind):
        return decode(kind, raw)
    if kind is Kind.SIGNED:
        return raw - _WRAP if raw >= _WRAP // 2 else raw
    if kind is Kind.TEXT:
        return raw.decode()
    return bool(raw) if kind is Kind.FLAG else raw
