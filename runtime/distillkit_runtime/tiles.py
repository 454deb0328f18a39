"""Cut a picture into the tiles of distillkit's engine, and blend them as it does.

Tiles are of equal size, overlap, and start at multiples of the network's ``size_multiple``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

DEFAULT_TILE = 768
"""Side of the default tile, in pixels of the result."""
LEAST_WEIGHT = 1e-6
"""Not 0: a pixel that only one tile has keeps its value."""

Span = tuple[int, int]
"""Start and end, in input pixels."""


class Grid(NamedTuple):
    """The tiles of a picture: every row with every column."""

    rows: list[Span]
    columns: list[Span]
    overlap: int
    """Input pixels that neighbors share at least."""


class Box(NamedTuple):
    """A rectangle of the input, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def default_tile(scale: int, size_multiple: int) -> int:
    """Choose the side of a tile, in input pixels."""
    return max(DEFAULT_TILE // scale, size_multiple)


def plan_tiles(height: int, width: int, tile: int, size_multiple: int) -> Grid:
    """Choose the grid that restores the fewest pixels.

    Args:
        height: Of the picture.
        width: Of the picture.
        tile: A tile has at most ``tile * tile`` pixels, an eighth of ``tile`` in the overlaps.
        size_multiple: What the network's inputs are multiples of.
    """
    # From here on, lengths count multiples.
    area = max(tile**2 // size_multiple**2, 1)
    shared = min(math.ceil(tile // 8 / size_multiple), math.isqrt(area) - 1)
    rows = math.ceil(height / size_multiple)
    columns = math.ceil(width / size_multiple)
    _, _, down, across = min(_list_grids(rows, columns, area, shared))
    return Grid(
        _spread(height, down, shared, size_multiple),
        _spread(width, across, shared, size_multiple),
        shared * size_multiple,
    )


def restored_bands(
    restore: Callable[[Box], np.ndarray], grid: Grid, scale: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Restore a picture from top to bottom, holding one row of tiles at a time.

    Args:
        restore: Returns the restored pixels of a box, (3, scale height, scale width).
        grid: The picture's tiles.
        scale: Output size divided by input size.

    Yields:
        The first row of a finished band in the result, and the band (3, rows, scale width).
    """
    height = grid.rows[-1][1]
    width = grid.columns[-1][1]
    # Three planes of weighted colors, and one of the weights.
    above = np.zeros((4, 0, width * scale), np.float32)
    for (top, bottom), (next_top, _) in itertools.pairwise([*grid.rows, (height, height)]):
        band = np.zeros((4, (bottom - top) * scale, width * scale), np.float32)
        band[:, : above.shape[1]] = above
        down = _ramp(top, bottom, height, scale, grid.overlap)
        for left, right in grid.columns:
            weights = down[:, None] * _ramp(left, right, width, scale, grid.overlap)
            place = band[:, :, left * scale : right * scale]
            place[:3] += restore(Box(top, bottom, left, right)) * weights
            place[3] += weights
        finished = (next_top - top) * scale
        yield top * scale, band[:3, :finished] / band[3, :finished]
        above = band[:, finished:]


def _list_grids(
    rows: int, columns: int, area: int, shared: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield pixels and number of all tiles, and how many are below and beside each other."""
    for down in range(1, max(rows - shared, 1) + 1):
        side = _tile_side(rows, down, shared)
        widest = area // side
        across = 1
        if columns > widest:
            if widest <= shared:
                continue
            across = math.ceil((columns - shared) / (widest - shared))
        pixels = down * side * across * _tile_side(columns, across, shared)
        yield pixels, down * across, down, across


def _tile_side(length: int, count: int, shared: int) -> int:
    """Compute the smallest side with which ``count`` equal tiles cover a length."""
    return math.ceil((length + (count - 1) * shared) / count)


def _spread(length: int, count: int, shared: int, size_multiple: int) -> list[Span]:
    """Spread tiles evenly over a side, from multiple to multiple; the last ends at the border."""
    multiples = math.ceil(length / size_multiple)
    side = _tile_side(multiples, count, shared)
    spans = []
    for i in range(count):
        start = i * (multiples - side) // max(count - 1, 1)
        end = min((start + side) * size_multiple, length)
        spans.append((start * size_multiple, end))
    return spans


def _ramp(start: int, end: int, length: int, scale: int, overlap: int) -> np.ndarray:
    """Weigh the restored pixels of a span: 1, falling over half of an overlap with a neighbor."""
    size = (end - start) * scale
    positions = np.arange(size, dtype=np.float32)
    distances = np.full(size, np.inf, np.float32)
    if start > 0:
        distances = positions + 1
    if end < length:
        distances = np.minimum(distances, size - positions)
    # The quarters beside the rise are left out: there a tile lacks its surroundings.
    quarter = overlap * scale // 4
    rise = overlap * scale - 2 * quarter
    return ((distances - quarter) / (rise + 1)).clip(LEAST_WEIGHT, 1)
