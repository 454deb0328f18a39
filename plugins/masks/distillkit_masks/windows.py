"""Windows of one size, in which a detector sees an image from afar and from near."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

MAX_ENLARGED = 2
"""At 4, blurred things were taken for text; letters of four pixels' height need it."""
NEARER = 4
"""A detector knows things of many sizes, so that it need not look from every distance."""


def windows(image: np.ndarray, side: int) -> Iterator[tuple[np.ndarray, float, int, int]]:
    """Yield what a detector is to look at.

    First the whole image, and while that has over twice as many pixels, parts of it. Neighbors
    overlap by at least a quarter, so that what is cut in one is whole in another.

    Args:
        image: (h, w, 3) in [0, 1].
        side: The longer side of a window.

    Yields:
        A window (h, w, 3), float32 in [0, 255]; how many of its pixels are one of the image; and
        where its left and top are in the image.
    """
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    for reach in _reaches(max(picture.size), side):
        scale = min(side / reach, MAX_ENLARGED)
        for left in _starts(picture.width, reach):
            for top in _starts(picture.height, reach):
                width, height = min(reach, picture.width), min(reach, picture.height)
                box = left, top, left + width, top + height
                size = max(1, round(scale * width)), max(1, round(scale * height))
                part = picture.resize(size, Image.Resampling.BILINEAR, box=box)
                yield np.asarray(part, np.float32), scale, left, top


def _reaches(length: int, side: int) -> list[int]:
    """List how much of an image a window has, from afar to near."""
    reaches = [length]
    while reaches[-1] > 2 * side:
        reaches.append(max(reaches[-1] // NEARER, side))
    return reaches


def _starts(length: int, reach: int) -> list[int]:
    """Place parts along a side; the last one ends with it."""
    rest = max(length - reach, 0)
    count = math.ceil(rest / (0.75 * reach))
    return [round(rest * i / max(count, 1)) for i in range(count + 1)]
