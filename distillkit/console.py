"""What a command tells its user on standard error: lines, and bars on a terminal.

Standard output is for results. Lines are records of the logger ``distillkit``, so one level decides
about all of them. Records of other packages are never shown: those of HTTP clients name signed
addresses and, at the level debug, headers, which may hold a token.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
LEVEL = "DISTILLKIT_LOG"
"""Environment variable: the least important lines to show; ``-v`` and ``-q`` set it.

A variable, because the processes that a command starts follow it as well.
"""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
PROGRESS_SECONDS = 10.0
"""Between two lines of progress."""
BAR_DELAY = 2.0
"""Seconds before a bar appears: what takes less needs none."""
PACE_ITEMS = 10
"""Number of the latest items whose pace gives the remaining time."""


class _ConsoleHandler(logging.Handler):
    """Print records to standard error at once, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        if "tqdm" not in sys.modules:
            print(text, file=sys.stderr, flush=True)
            return
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


logger = logging.getLogger("distillkit")
"""For lines of status (info), of warning, and of detail (debug)."""
logger.setLevel(logging.INFO)
logger.addHandler(_ConsoleHandler())


def set_log_level() -> None:
    """Set the level of the logger that the environment variable names; by default info.

    Raises:
        DistillkitError: It names no level.
    """
    name = os.environ.get(LEVEL) or "info"
    level = LEVELS.get(name.lower())
    if level is None:
        raise DistillkitError(f"{LEVEL}={name} - expected one of {', '.join(LEVELS)}")
    logger.setLevel(level)
    if level > logging.INFO:
        # The Hub's client reads this when it is imported.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def shows_bars() -> bool:
    """Tell whether progress is shown as bars: on a terminal, unless ``-q`` is given."""
    return sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """Make a progress bar, which appears after two seconds, where bars are shown.

    Args:
        items: What to iterate over; None: the caller updates the bar.
        options: The options of :class:`tqdm.tqdm`, such as ``total``, ``desc`` and ``unit``.
    """
    from tqdm import tqdm

    return tqdm(items, disable=not shows_bars(), delay=BAR_DELAY, dynamic_ncols=True, **options)


def with_progress(items: Iterable[T], count: int, work: str) -> Iterator[T]:
    """Yield the items, and show how many are done.

    On a terminal that is a bar. Elsewhere a line comes after the first item and the last, and every
    few seconds between.

    Args:
        items: What the caller works on.
        count: How many there are.
        work: What is done with them: ``"measuring"``.
    """
    if shows_bars():
        yield from progress_bar(items, total=count, desc=work, unit="image")
        return
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
        logger.info(f"{work} {done}/{count}  {pace:.1f} s each  ETA {remaining}")
