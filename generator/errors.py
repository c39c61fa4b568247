"""What can go wrong, and the exit code each kind ends in.

    BakeError            1  something failed
    ├── DeclinedError    1  the user answered no; nothing was done
    ├── StaleError       1  another run changed the cluster meanwhile; nothing was done
    ├── InputError       2  what the user said is wrong; nothing was written
    ├── UnhealthyError   3  the cluster answers, but not as it should
    └── WaitTimeoutError 4  it did not get there in time

Only `cli` prints and exits; everything else raises one of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with the input.

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
    """A failure with a message for a person, and how to get on."""

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
        """The common case: a single problem."""
        return cls([Problem(where, message, hint)])


class DeclinedError(BakeError):
    """The user was asked, and answered no."""


class StaleError(BakeError):
    """The cluster's folder is not the one that the changes were compared with."""


class UnhealthyError(BakeError):
    """The cluster answers, but not as a healthy one does."""

    exit_code = 3


class UnsignedError(BakeError):
    """Certificates were asked for, and a CA elsewhere has to issue them first."""

    exit_code = 3


class WaitTimeoutError(BakeError):
    """Something did not happen within the time that was given."""

    exit_code = 4
