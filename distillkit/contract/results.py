"""Checks and their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Check = Callable[[Any], None]
"""Takes what a plugin built, and raises where that breaks the contract.

The first line of its docstring states what is required.
"""


def statement_of(check: Check) -> str:
    """Return what a check requires, without a period."""
    first, *_ = (check.__doc__ or check.__name__).splitlines()
    return first.rstrip(".")


def name_of(check: Check) -> str:
    """Return the name by which a descriptor's ``exempt`` means a check."""
    return check.__name__.removeprefix("check_")


class DoesNotApply(Exception):
    """A check does not apply to what was built, or the thing cannot be built here."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    kind: str
    full_name: str
    statement: str
    """What is required."""
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""
    """Why it failed or was skipped."""

    def __str__(self) -> str:
        mark: str = self.outcome
        if mark != "passed":
            mark = mark.upper()
        line = f"{mark:<8} {self.statement}"
        if self.detail:
            line += f": {self.detail}"
        return line
