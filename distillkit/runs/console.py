"""What a run tells the person who started it."""

from __future__ import annotations

import sys


def print_status(text: str) -> None:
    """Print a line to standard error at once; standard output is for results."""
    print(text, file=sys.stderr, flush=True)
