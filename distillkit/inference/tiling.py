"""Restore an image tile by tile: equal tiles that overlap, blended with linear ramps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DEFAULT_TILE = 768
"""Side of the default tile, in pixels of the result."""
LEAST_WEIGHT = 1e-6
"""Weight of the pixels at a tile's inner edges."""


class Box(NamedTuple):
    """A rectangle of the input, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def default_tile(scale: int, size_multiple: int) -> int:
    """Choose the side of a tile, in input pixels."""
    return max(DEFAULT_TILE // scale, size_multiple)


def padded_area(height: int, width: int, size_multiple: int) -> int:
    """Count the pixels of an image whose sides are padded to multiples."""
    rows = math.ceil(height / size_multiple) * size_multiple
    columns = math.ceil(width / size_multiple) * size_multiple
    return rows * columns


class Grid(NamedTuple):
    """The tiles of an image: every row with every column, as starts and ends in input pixels."""

    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]
    overlap: int
    """Input pixels that neighboring tiles share at least."""


def plan_tiles(height: int, width: int, *, tile: int, overlap: int, size_multiple: int) -> Grid:
    """Divide an image into tiles of equal size, with as few pixels in overlaps as possible.

    Every tile starts at a multiple of ``size_multiple``, where a network with strides sees the same
    grid as in the full image.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        tile: A tile has at most ``tile^2`` pixels, with the sides padded to ``size_multiple``.
        overlap: Pixels that neighbors share, rounded up to ``size_multiple``; less where a tile
            has no room for it.
        size_multiple: What the model's inputs have to be multiples of.

    Raises:
        ValueError: ``overlap`` is not below ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the tile's side {tile}")
    # From here on, all lengths count multiples.
    area = max(tile**2 // size_multiple**2, 1)
    shared = min(math.ceil(overlap / size_multiple), math.isqrt(area) - 1)
    rows = math.ceil(height / size_multiple)
    columns = math.ceil(width / size_multiple)
    _, _, down, across = min(_list_grids(rows, columns, area, shared))
    return Grid(
        _spans(height, down, shared, size_multiple),
        _spans(width, across, shared, size_multiple),
        shared * size_multiple,
    )


def restored_bands(
    restore: Callable[[Box], Tensor], grid: Grid, scale: int
) -> Iterator[tuple[int, Tensor]]:
    """Restore an image from top to bottom, in bands of finished rows.

    No more than one row of tiles is held at a time. Neighboring tiles are blended around the middle
    of their overlap; what lies next to a tile's inner edge, and lacks its surroundings, is left
    out.

    Args:
        restore: Returns the restored pixels of a box, (K, C, scale height, scale width).
        grid: The image's tiles.
        scale: Output size divided by input size.

    Yields:
        The band's first row in the restored image, and the band (K, C, rows, scale width).
    """
    rows, columns, overlap = grid
    height = rows[-1][1]
    width = columns[-1][1]
    if len(rows) == len(columns) == 1:
        yield 0, restore(Box(0, height, 0, width))
        return
    unfinished: _WeightedSum | None = None
    for (top, bottom), (next_top, _) in itertools.pairwise([*rows, (height, height)]):
        down = _ramps(top, bottom, height, scale, overlap)
        band: _WeightedSum | None = None
        for left, right in columns:
            pixels = restore(Box(top, bottom, left, right))
            if band is None:
                band = _WeightedSum.zeros(pixels, width * scale)
            across = _ramps(left, right, width, scale, overlap)
            band.add_tile(pixels, (down[:, None] * across).to(pixels), left * scale)
        assert band is not None
        if unfinished is not None:
            band.add_to_top(unfinished)
        finished, unfinished = band.split((next_top - top) * scale)
        yield top * scale, finished


class _WeightedSum:
    """A band of weighted tiles, added up, and the sum of their weights."""

    def __init__(self, pixels: Tensor, weights: Tensor) -> None:
        self.pixels = pixels
        self.weights = weights

    @classmethod
    def zeros(cls, tile: Tensor, width: int) -> _WeightedSum:
        """Start a band for tiles like this one."""
        images, channels, rows, _ = tile.shape
        return cls(
            tile.new_zeros(images, channels, rows, width),
            tile.new_zeros(rows, width),
        )

    def add_tile(self, tile: Tensor, weights: Tensor, left: int) -> None:
        right = left + tile.shape[3]
        self.pixels[..., left:right] += tile * weights
        self.weights[:, left:right] += weights

    def add_to_top(self, other: _WeightedSum) -> None:
        rows = other.weights.shape[0]
        self.pixels[..., :rows, :] += other.pixels
        self.weights[:rows] += other.weights

    def split(self, rows: int) -> tuple[Tensor, _WeightedSum]:
        """Finish the upper rows, and keep the lower ones for the tiles below."""
        # Copied, so that the band itself is freed.
        rest_pixels = self.pixels[..., rows:, :].clone()
        rest_weights = self.weights[rows:].clone()
        finished = self.pixels[..., :rows, :]
        finished /= self.weights[:rows]
        return finished, _WeightedSum(rest_pixels, rest_weights)


def _list_grids(
    rows: int, columns: int, area: int, shared: int
) -> Iterator[tuple[int, int, int, int]]:
    """List the grids whose tiles have at most this area; all lengths count multiples.

    Args:
        rows: The height of the image.
        columns: The width of the image.
        area: The largest area of a tile.
        shared: The overlap of neighboring tiles.

    Yields:
        The area of all tiles together, their number, and the numbers of rows and columns of tiles.
    """
    for down in range(1, max(rows - shared, 1) + 1):
        tile_rows = _balanced_side(rows, down, shared)
        widest = area // tile_rows
        if widest <= shared and widest < columns:
            continue
        across = _count_tiles(columns, widest, shared)
        pixels = down * tile_rows * across * _balanced_side(columns, across, shared)
        yield pixels, down * across, down, across


def _count_tiles(length: int, tile: int, shared: int) -> int:
    """Count the tiles of a side that cover a length, where neighbors share some of it."""
    if length <= tile:
        return 1
    return math.ceil((length - shared) / (tile - shared))


def _balanced_side(length: int, count: int, shared: int) -> int:
    """Compute the smallest side with which ``count`` equal tiles cover a length."""
    return math.ceil((length + (count - 1) * shared) / count)


def _spans(length: int, count: int, shared: int, size_multiple: int) -> list[tuple[int, int]]:
    """Spread tiles evenly over a side, from multiple to multiple; the last ends at the border."""
    multiples = math.ceil(length / size_multiple)
    side = _balanced_side(multiples, count, shared)
    steps = max(count - 1, 1)
    spans = []
    for i in range(count):
        start = i * (multiples - side) // steps
        end = min((start + side) * size_multiple, length)
        spans.append((start * size_multiple, end))
    return spans


def _ramps(start: int, end: int, length: int, scale: int, overlap: int) -> Tensor:
    """Weigh the restored pixels of a span: 1, but less toward edges inside the image.

    From an inner edge, the weights stay near 0 over a quarter of the overlap, rise over half of it,
    and are 1 in the last quarter, where the neighbor's are near 0.
    """
    positions = torch.arange((end - start) * scale, dtype=torch.float32)
    distances = torch.full_like(positions, torch.inf)
    if start > 0:
        distances = positions + 1
    if end < length:
        distances = torch.minimum(distances, len(positions) - positions)
    quarter = overlap * scale // 4
    rise = overlap * scale - 2 * quarter
    # Not 0: a pixel that only this tile has keeps its value.
    return ((distances - quarter) / (rise + 1)).clamp(min=LEAST_WEIGHT, max=1)
