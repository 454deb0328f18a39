"""Measure how much pixels flicker that stand still in a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from distillkit import DataError
from distillkit_video.steady import TOLERANCE, local_change
from distillkit_video.video import read_frames


@dataclass(frozen=True)
class Flicker:
    """What was measured over all pairs of consecutive frames."""

    static: float
    """The share of the source's pixels that stand still."""
    levels: dict[str, float | None]
    """By the source's path and those of the results: the mean absolute difference of these pixels,
    of 0 to 255; None where nothing stands still."""


def measure_flicker(source: Path, results: Sequence[Path]) -> Flicker:
    """Compare consecutive frames where the source stands still.

    A pixel does where its neighborhood changes by no more than
    :data:`~distillkit_video.steady.TOLERANCE`. All videos are measured at the same pixels.

    Args:
        source: The video that was restored.
        results: Its restored videos, of the same frames, enlarged by whole numbers.

    Raises:
        DataError: A video is damaged, or does not fit to the source.
    """
    videos = [source, *results]
    sums = np.zeros(len(videos))
    static_count = pixel_count = 0
    before: tuple[np.ndarray, ...] | None = None
    for frames in zip_longest(*map(read_frames, videos)):
        _refuse_unequal(videos, frames)
        if before is not None:
            static = local_change(frames[0], before[0]) <= TOLERANCE
            pairs = zip(frames, before, strict=True)
            sums += [_sum_change(frame, former, static) for frame, former in pairs]
            static_count += int(static.sum())
            pixel_count += static.size
        before = frames
    if not pixel_count:
        raise DataError(f"{source} - has one frame; flicker is measured between frames")
    means = [float(total / static_count) if static_count else None for total in sums]
    levels = dict(zip(map(str, videos), means, strict=True))
    return Flicker(static_count / pixel_count, levels)


def _refuse_unequal(videos: Sequence[Path], frames: Sequence[np.ndarray | None]) -> None:
    for video, frame in zip(videos, frames, strict=True):
        if frame is None:
            raise DataError(f"{video} - has fewer frames than another one of the videos")
        height, width = frames[0].shape[:2]  # type: ignore[union-attr]
        scale = frame.shape[0] // height
        if frame.shape[:2] != (scale * height, scale * width) or not scale:
            raise DataError(
                f"{video} - its {frame.shape[1]} x {frame.shape[0]} pixels are no multiple of the "
                f"{width} x {height} of {videos[0]}"
            )


def _sum_change(frame: np.ndarray, before: np.ndarray, static: np.ndarray) -> float:
    """Sum, over the static pixels of the source, the mean change of the pixels made of each."""
    change = np.abs(frame.astype(np.int16) - before).mean(axis=2)
    height, width = static.shape
    scale = change.shape[0] // height
    change = change.reshape(height, scale, width, scale).mean(axis=(1, 3))
    return float(change[static].sum())
