"""A tradeoff that changes with time: ``0:0.2,10s:0.8``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from distillkit import DistillkitError

FAITHFUL = 1.0
"""The tradeoff of the most faithful result."""
_KEYFRAME = re.compile(r"\s*(?=\d)(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?:(.*)")
"""``90:0.2``, ``90s:0.2``, ``1m30s:0.2``, ``1m:0.2``."""


@dataclass(frozen=True)
class Keyframes:
    """Tradeoffs at times, with straight lines between them."""

    times: tuple[float, ...]
    """Seconds from the video's first frame, rising."""
    tradeoffs: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Keyframes:
        """Parse ``TIME:TRADEOFF,TIME:TRADEOFF,...``.

        Raises:
            DistillkitError: A keyframe is not of that form, its tradeoff is outside of [0, 1], or
                its time is not after the one before it.
        """
        times: list[float] = []
        tradeoffs: list[float] = []
        for number, part in enumerate(text.split(","), 1):
            where = f'--tradeoff {text} - keyframe {number}, "{part}"'
            seconds, tradeoff = _parse_keyframe(part, where)
            if times and seconds <= times[-1]:
                raise DistillkitError(f"{where}: is not later than the keyframe before it")
            times.append(seconds)
            tradeoffs.append(tradeoff)
        return cls(tuple(times), tuple(tradeoffs))

    def at(self, seconds: float) -> float:
        """Return the tradeoff at a time; outside of the keyframes, that of the nearest one."""
        return float(np.interp(seconds, self.times, self.tradeoffs))


def _parse_keyframe(text: str, where: str) -> tuple[float, float]:
    match = _KEYFRAME.fullmatch(text)
    if match is None:
        raise DistillkitError(
            f"{where}: expected TIME:TRADEOFF, as 10s:0.8; times are 90, 90s, 1m30s or 0.5s"
        )
    minutes, seconds, tradeoff = match.groups(default="0")
    return 60 * int(minutes) + float(seconds), _parse_tradeoff(tradeoff, where)


def _parse_tradeoff(text: str, where: str) -> float:
    try:
        tradeoff = float(text)
    except ValueError:
        tradeoff = float("nan")
    # A comparison with nan is false, so nan is refused here as well.
    if not 0 <= tradeoff <= 1:
        raise DistillkitError(f"{where}: expected a tradeoff from 0 to 1 behind the colon")
    return tradeoff
