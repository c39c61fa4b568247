"""The checker of histories accepts what a linearizable store answers, and finds each kind of wrong answer."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assembly.linearizable import Op, flaws


def write(value: str, revision: int | None, begin: float, end: float, key: str = "a") -> Op:
    return Op(True, key, value, revision, begin, end)


def read(value: str | None, revision: int, begin: float, end: float, key: str = "a") -> Op:
    return Op(False, key, value, revision, begin, end)


FIRST, SECOND = write("x", 2, 0, 1), write("y", 3, 2, 3)
LOST = write("z", None, 4, 5)  # a write without an answer


@pytest.mark.parametrize(
    "history",
    [
        [FIRST, SECOND, read(None, 1, 0, 0.5), read("x", 2, 0.5, 4), read("y", 3, 2.5, 2.8), read("y", 9, 5, 6)],
        [FIRST, LOST, read("x", 2, 4, 6), read("x", 2, 7, 8)],
        [FIRST, LOST, read("x", 2, 4, 6), read("z", 3, 6, 7), read("z", 5, 8, 9)],
        [LOST, read(None, 4, 4, 4.5), read("z", 6, 5, 6), write("w", 7, 6, 7), read("w", 7, 8, 9)],
        [FIRST, write("y", 3, 0.5, 1.5, key="b"), read("y", 3, 2, 3, key="b"), read("x", 3, 2, 3)],
    ],
)
def test_what_one_order_explains_is_accepted(history: list[Op]) -> None:
    assert flaws(history) == []


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([FIRST, SECOND, read("x", 2, 4, 5)], "stale read"),
        ([FIRST, SECOND, read("x", 4, 4, 5)], "an old value"),
        ([FIRST, read(None, 4, 4, 5)], "an old value"),
        ([FIRST, write("y", 2, 0, 1)], "two writes"),
        ([write("x", 5, 0, 1), write("y", 4, 2, 3)], "write after"),
        ([FIRST, read("ghost", 3, 2, 3)], "nobody wrote"),
        ([FIRST, LOST, read("z", 3, 2, 3)], "nobody wrote"),  # read before the write began
        ([FIRST, LOST, read("z", 5, 6, 7), read("x", 6, 8, 9), read("z", 7, 10, 11)], "no revision explains"),
        ([FIRST, read("x", 4, 3, 4), LOST, read("z", 4, 5, 6)], "no revision explains"),
        ([FIRST, LOST, read("z", 3, 5, 6), SECOND._replace(revision=4), read("z", 5, 8, 9)], "no revision explains"),
    ],
)
def test_a_wrong_answer_is_found(history: list[Op], text: str) -> None:
    assert any(text in flaw for flaw in flaws(history))


def store_history(random: Random, size: int) -> list[Op]:
    """Return what clients of a correct store see: each operation takes effect at one moment between begin and end."""
    moments = sorted(random.uniform(0, 10) for _ in range(size))
    values: dict[str, str] = {}
    history, revision = [], 1
    for number, moment in enumerate(moments):
        begin, end, key = moment - random.expovariate(3), moment + random.expovariate(3), random.choice("ab")
        if random.random() < 0.5:
            answers, happens = random.random() < 0.8, True
            if not answers:
                happens = random.random() < 0.5
            if happens:
                revision += 1
                values[key] = str(number)
            history.append(write(str(number), revision if answers else None, begin, end, key))
        else:
            history.append(read(values.get(key), revision, begin, end, key))
    return history


@given(st.integers(), st.integers(0, 60))
def test_a_correct_store_has_no_flaws(seed: int, size: int) -> None:
    assert flaws(store_history(Random(seed), size)) == []  # noqa: S311  no secret


@given(st.integers())
def test_a_store_that_loses_an_acknowledged_write_has_flaws(seed: int) -> None:
    history = store_history(Random(seed), 40)  # noqa: S311  no secret
    end = max(op.end for op in history)
    last = max(op.revision or 0 for op in history)
    before = write("before", last + 1, end + 1, end + 2)
    kept = write("kept", last + 2, end + 3, end + 4)
    assert flaws([*history, before, kept, read("before", last + 3, end + 5, end + 6)])
