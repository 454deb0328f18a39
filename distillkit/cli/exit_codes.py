"""The exit codes of every command; each has one meaning."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ended with, for ``typer.Exit``."""

    DONE = 0
    """Everything is done; what was checked is as it should be."""
    CHECK_FAILED = 1
    """What the command was to check is not as it should be."""
    REFUSED = 2
    """Wrong usage, bad input or a machine that fails; the message says what to do."""
    PARTLY_DONE = 3
    """Some of the work is done; what is not is named."""
    BUG = 70
    """An error that nobody foresaw, with its traceback."""
    INTERRUPTED = 130
    """A signal ended the command; what was finished is on disk."""
