"""Sliding windows at several scales, for detectors with an input of one size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

MAX_SCALE = 2
"""Of small images, which are enlarged. Letters of four pixels' height need it; at 4, blurred things
were taken for text."""
SCALE_STEP = 4
"""Between two scales. A detector finds things of many sizes, so smaller steps are not needed."""


def windows(image: np.ndarray, side: int) -> Iterator[tuple[np.ndarray, float, int, int]]:
    """Yield an image in windows, from the coarsest scale to the finest.

    The first window is the whole image. As long as windows are shrunk to less than half, smaller
    parts of the image follow. Neighbors overlap by at least a quarter, so that what one cuts is
    whole in another.

    Args:
        image: (h, w, 3) in [0, 1].
        side: The longer side of a window.

    Yields:
        A window (h, w, 3), float32 in [0, 255]; its scale, window pixels per image pixel; and its
        left and top in the image, pixels.
    """
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    for extent in _extents(max(picture.size), side):
        scale = min(side / extent, MAX_SCALE)
        for left in _starts(picture.width, extent):
            for top in _starts(picture.height, extent):
                width, height = min(extent, picture.width), min(extent, picture.height)
                box = left, top, left + width, top + height
                size = max(1, round(scale * width)), max(1, round(scale * height))
                part = picture.resize(size, Image.Resampling.BILINEAR, box=box)
                yield np.asarray(part, np.float32), scale, left, top


def _extents(length: int, side: int) -> list[int]:
    """List the sides of the image parts in windows, in image pixels, the largest first."""
    extents = [length]
    while extents[-1] > 2 * side:
        extents.append(max(extents[-1] // SCALE_STEP, side))
    return extents


def _starts(length: int, extent: int) -> list[int]:
    """Place parts along a side; the last one ends with it."""
    rest = max(length - extent, 0)
    count = math.ceil(rest / (0.75 * extent))
    return [round(rest * i / max(count, 1)) for i in range(count + 1)]
