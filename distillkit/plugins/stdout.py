"""Keeps what plugins print out of what a command prints."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, redirect_stdout


def divert_stdout() -> AbstractContextManager[object]:
    """Send what a plugin prints inside the context to stderr.

    stdout belongs to the command: ``distillkit plugins --json`` is read by programs.
    """
    return redirect_stdout(sys.stderr)
