"""The exceptions that bake raises, and their exit codes.

    BakeError            1  something failed
    ├── DeclinedError    1  the user answered no; nothing was done
    ├── StaleError       1  another run has changed the cluster; nothing was done
    ├── InputError       2  the user's input is wrong; nothing was written
    ├── UnhealthyError   3  the cluster is not healthy, or the operator has to act
    ├── UnsignedError    3  an external CA has to issue certificates first
    └── WaitTimeoutError 4  timed out

Only `cli` prints and exits; all other modules raise these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem with the input.

    `where` is `file:line:col: field`, a flag (`--nodes`) or a path; `message` names the value and the rule;
    `hint` is the remedy.
    """

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class BakeError(Exception):
    """A failure, with a message for the user and a hint what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InputError(BakeError):
    """The user's input is wrong; carries every problem that was found."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def one(cls, where: str, message: str, hint: str | None = None) -> InputError:
        """Return the error for a single problem."""
        return cls([Problem(where, message, hint)])


class DeclinedError(BakeError):
    """The user was asked, and answered no."""


class StaleError(BakeError):
    """The cluster's folder has changed since the changes were computed."""


class UnhealthyError(BakeError):
    """The cluster is not healthy, or the operator has to act."""

    exit_code = 3


class UnsignedError(BakeError):
    """Certificate requests were written, and an external CA has to issue the certificates first."""

    exit_code = 3


class WaitTimeoutError(BakeError):
    """Something did not happen within the given time."""

    exit_code = 4
