"""The wire format: the examples of its specification, and whatever else may arrive."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.host.etcd_api import CALLS
from generator.host.protobuf import Field, Kind, decode, encode

FLAT = {
    "signed": Field(1, Kind.SIGNED), "text": Field(2, Kind.TEXT), "flag": Field(3, Kind.FLAG),
    "data": Field(4, Kind.BYTES), "unsigned": Field(1000, Kind.UNSIGNED),
}  # fmt: skip
NESTED = {"inner": Field(3, FLAT), "many": Field(5, Kind.TEXT, True)}


@pytest.mark.parametrize(
    ("values", "data"),
    [
        ({"signed": 150}, "089601"),  # the examples of the format's description
        ({"text": "testing"}, "120774657374696e67"),
        ({"signed": -2}, "08feffffffffffffffff01"),
        ({"flag": True}, "1801"),
        ({"data": b"\0\xff"}, "220200ff"),
        ({"unsigned": 2**64 - 1}, "c03effffffffffffffffff01"),
        ({"signed": 0, "text": "", "flag": False, "data": b"", "unsigned": 0}, ""),
    ],
)
def test_the_bytes_are_those_of_the_specification(values: dict[str, Any], data: str) -> None:
    assert encode(FLAT, values) == bytes.fromhex(data)
    assert {name: value for name, value in decode(FLAT, bytes.fromhex(data)).items() if value} == {
        name: value for name, value in values.items() if value
    }


@given(
    st.fixed_dictionaries(
        {
            "signed": st.integers(-(2**63), 2**63 - 1), "text": st.text(), "flag": st.booleans(),
            "data": st.binary(), "unsigned": st.integers(0, 2**64 - 1),
        }
    )
)  # fmt: skip
def test_what_is_encoded_is_decoded_equal(values: dict[str, Any]) -> None:
    assert decode(FLAT, encode(FLAT, values)) == values


def test_messages_and_lists_are_read_and_what_is_unset_has_its_default() -> None:
    found = decode(NESTED, bytes.fromhex("1a03089601" + "2a0161" + "2a0162"))
    assert found["many"] == ("a", "b")
    assert found["inner"] == {"signed": 150, "text": "", "flag": False, "data": b"", "unsigned": 0}
    assert decode(NESTED, b"") == {"many": ()}


def test_fields_that_a_newer_etcd_adds_are_passed_over() -> None:
    added = "f87f01" + "e97f0102030405060708" + "fa7f0161" + "fd7f01020304"
    assert decode(FLAT, bytes.fromhex(added + "089601"))["signed"] == 150


@pytest.mark.parametrize(
    "data",
    ["08", "0880", "08ffffffffffffffffffffff01", "1205", "0a0161", "1001", "1202c328", "0b", "1a02" + "1205", "0d0102"],
)
def test_other_bytes_are_an_error(data: str) -> None:
    with pytest.raises(ValueError):
        decode(FLAT, bytes.fromhex(data))


@given(st.sampled_from([answer for _, answer in CALLS.values()]), st.binary())
def test_no_bytes_whatever_do_any_harm(message: dict[str, Field], data: bytes) -> None:
    with suppress(ValueError):
        decode(message, data)
