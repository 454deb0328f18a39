"""Errors that a user can act on.

Each says what is wrong, where, and what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DistillkitError(Exception):
    """A problem that the user can fix.

    Its text is complete: the command line prints it without a traceback.
    """


class RecipeError(DistillkitError):
    """A recipe that cannot run. It lists every problem, one a line."""


class PluginError(DistillkitError):
    """A plugin that is missing, broken, ambiguous, or does not offer what a recipe names."""


class SettingsError(PluginError):
    """Options that a plugin's component does not take, or that it needs and did not get."""


class DataError(DistillkitError):
    """A dataset or image that cannot be read or used."""


class WeightsError(DistillkitError):
    """A weight file that is missing, damaged, unsafe, or of another architecture.

    Args:
        problem: What is wrong, and with which file.
        remedy: How to get a missing file; empty where the file is there and cannot be used.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        if self.remedy:
            return f"{self.problem}; to get it: {self.remedy}"
        return self.problem


class MissingPackageError(WeightsError):
    """Weights that come with a Python package which is not installed."""


class CheckpointError(DistillkitError):
    """A checkpoint that is missing, damaged, or belongs to another recipe."""


class DiskError(DistillkitError):
    """A file that cannot be written, as on a full disk."""

    def __init__(self, path: object, reason: str, advice: str = "") -> None:
        super().__init__(path, reason, advice)
        self.path = path
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        text = f"{self.path} - cannot be written: {self.reason}"
        if self.advice:
            text += f"; {self.advice}"
        return text


class Interrupted(Exception):
    """A signal stopped a run; its state is on disk.

    The command line prints it and exits with 130.
    """


def first_line(error: Exception) -> str:
    """Return the first line of another package's message; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the closest known name: ``'; did you mean "x"?'``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not close:
        return ""
    return f'; did you mean "{close[0]}"?'
