"""Error classes and their exit codes.

    BakeError            1  something failed
    ├── DeclinedError    1  the user answered no; nothing was done
    ├── StaleError       1  another bake process changed the cluster; nothing was done
    ├── InputError       2  the user's input is wrong; nothing was written
    ├── UnhealthyError   3  the cluster answers, but is not healthy
    ├── UnsignedError    3  an external CA has not issued every certificate yet
    └── WaitTimeoutError 4  an operation did not finish in time

Only the package `cli` prints messages and ends the process. Modules outside `cli` only raise errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One problem with the input.

    `where` is `file:line:col: field`, a flag such as `--nodes`, or a path. `message` contains the wrong value and the
    rule that the value breaks. `hint` tells the user what to do.
    """

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BakeError(Exception):
    """An error with a message and a hint for the user."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InputError(BakeError):
    """The user's input is wrong. `problems` lists every problem in the input."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def one(cls, where: str, message: str, hint: str | None = None) -> InputError:
        """Return an error with a single problem."""
        return cls([Problem(where, message, hint)])


class DeclinedError(BakeError):
    """The user answered no to a question."""


class StaleError(BakeError):
    """Another bake process changed the cluster's folder after this process read the folder."""


class UnhealthyError(BakeError):
    """The cluster answers, but is not healthy."""

    exit_code = 3


class UnsignedError(BakeError):
    """An external CA has not issued every certificate yet."""

    exit_code = 3


class WaitTimeoutError(BakeError):
    """An operation did not finish within its time limit."""

    exit_code = 4
