"""The error that a user can act on."""

from __future__ import annotations


class RestoreError(Exception):
    """Say what is wrong, where, and what to do.

    The command prints it without a traceback and exits with 2.
    """


def first_line(error: Exception) -> str:
    """Return the first line of another package's message; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
