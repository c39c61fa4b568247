"""Reading of YAML 1.2 with the core schema. tests/hostile/catalogue.py has refused files."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from generator.config import yaml12
from generator.errors import InputError

SCALARS: dict[str, Any] = {
    "3": 3,
    "-3": -3,
    "+3": 3,
    "0": 0,
    "3.5": 3.5,
    "1e3": 1000.0,
    ".5": 0.5,
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    # text in YAML 1.2, but another type in YAML 1.1
    "no": "no",
    "on": "on",
    "yes": "yes",
    "0644": "0644",
    "-0644": "-0644",
    "12:30": "12:30",
    "1_000": "1_000",
    "0x1F": "0x1F",
    "2020-01-01": "2020-01-01",
    "<<": "<<",
    "=": "=",
    '"3"': "3",
    "'true'": "true",
    "1" * 30: "1" * 30,
    ".inf": ".inf",
    ".": ".",
    "e3": "e3",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    loaded = yaml12.load_text(f"a: {text}", "x").value["a"]
    assert (loaded, type(loaded)) == (value, type(value))


def test_every_value_has_its_position() -> None:
    positions = yaml12.load_text("a: 1\nb:\n  - c: 2\n  - 3\n", "f.yaml").positions
    assert positions[("a",)] == "f.yaml:1:1"
    assert positions["b", 0, "c"] == "f.yaml:3:5"
    assert positions["b", 1] == "f.yaml:4:5"


def test_an_empty_document_is_none() -> None:
    assert yaml12.load_text("", "x").value is None
    assert yaml12.load_text("# only a comment\n", "x").value is None


TEXT = st.one_of(st.text(max_size=30), st.sampled_from([text for text in SCALARS if text]))
NUMBERS = st.one_of(st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(TEXT, NUMBERS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


@given(VALUES)
def test_dumped_values_load_in_yaml_1_2_and_1_1(value: object) -> None:
    text = yaml12.dump({"value": value})
    assert yaml12.load_text(text, "x").value == {"value": value}
    assert yaml.safe_load(text) == {"value": value}


@given(st.text(max_size=80))
def test_any_text_loads_or_is_refused(text: str) -> None:
    try:
        loaded = yaml12.load_text(text, "x").value
    except InputError:
        return
    assert not (isinstance(loaded, float) and math.isnan(loaded))


@pytest.mark.parametrize("text", ["vm:\n\tcpus: 1", "a: 1\n\tb: 2"])
def test_a_tab_has_its_own_hint(text: str) -> None:
    with pytest.raises(InputError) as error:
        yaml12.load_text(text, "c.yaml")
    (problem,) = error.value.problems
    assert problem.hint == "use spaces: YAML does not allow tabs for indentation"
