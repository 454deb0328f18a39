"""What a run tells the person who started it."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
PROGRESS_SECONDS = 10.0
"""Between two lines of progress."""
PACE_ITEMS = 10
"""The remaining time follows the pace of so many latest items."""


def print_status(text: str) -> None:
    """Print a line to standard error at once; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def with_progress(items: Iterable[T], count: int, work: str) -> Iterator[T]:
    """Yield the items, and print from time to time how many are done.

    A line comes after the first item and the last, and every few seconds between.

    Args:
        items: what the caller works on.
        count: how many there are.
        work: what is done with them: ``"measuring"``.
    """
    # Items that an earlier command has done pass at once: the pace is that of the latest ones.
    times = deque([time.monotonic()], maxlen=PACE_ITEMS + 1)
    last_line = -math.inf
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        times.append(now)
        if done < count and now - last_line < PROGRESS_SECONDS:
            continue
        last_line = now
        pace = (times[-1] - times[0]) / (len(times) - 1)
        remaining = timedelta(seconds=round(pace * (count - done)))
        print_status(f"{work} {done}/{count}  {pace:.1f} s each  ETA {remaining}")
