"""Error messages and exit codes."""

from __future__ import annotations

import pytest

from generator.errors import BakeError, InputError, Problem, UnhealthyError, WaitTimeoutError


@pytest.mark.parametrize(
    ("kind", "code"), [(BakeError, 1), (InputError, 2), (UnhealthyError, 3), (WaitTimeoutError, 4)]
)
def test_exit_codes_match_the_documentation(kind: type[BakeError], code: int) -> None:
    assert kind.exit_code == code


def test_a_problem_shows_location_message_and_hint() -> None:
    assert (
        str(Problem("a.yaml:1:2: nodes", "0 is too few", "try 3"))
        == "a.yaml:1:2: nodes: 0 is too few\n  hint: try 3"
    )
    assert str(Problem("", "no place")) == "no place"


def test_an_input_error_holds_every_problem() -> None:
    error = InputError(Problem("a", text) for text in ("one", "two"))
    assert str(error) == "a: one\na: two"
    assert [problem.message for problem in error.problems] == ["one", "two"]
