"""Restore an image tile by tile: tiles overlap, and are blended with linear ramps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_TILE = 768
"""Side of the default tile, in pixels of the result."""


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


def restored_bands(
    restore: Callable[[Box], Tensor],
    height: int,
    width: int,
    scale: int,
    *,
    tile: int,
    overlap: int,
) -> Iterator[tuple[int, Tensor]]:
    """Restore an image from top to bottom, in bands of finished rows.

    No more than one row of tiles is held at a time. Neighboring tiles are blended over their
    overlap by weights that rise linearly from their inner edges.

    Args:
        restore: Returns the restored pixels of a box, (K, C, scale height, scale width).
        height: Rows of the input.
        width: Columns of the input.
        scale: Output size divided by input size.
        tile: Side of a tile in input pixels; an image that fits into it is one tile.
        overlap: Input pixels that neighboring tiles share.

    Yields:
        The band's first row in the restored image, and the band (K, C, rows, scale width).

    Raises:
        ValueError: ``overlap`` is not below ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the tile's side {tile}")
    if height <= tile and width <= tile:
        yield 0, restore(Box(0, height, 0, width))
        return
    rows = list(_spans(height, tile, overlap))
    columns = list(_spans(width, tile, overlap))
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


def restore_padded(
    restore: Callable[[Tensor], Tensor], lq: Tensor, scale: int, size_multiple: int
) -> Tensor:
    """Restore an image whose sides are padded to multiples of ``size_multiple``.

    Args:
        restore: (B, 3, h, w) in [-1, 1] -> (K, 3, scale h, scale w).
        lq: (B, 3, h, w) in [-1, 1].
        scale: Output size divided by input size.
        size_multiple: What the sides have to be multiples of.

    Returns:
        What ``restore`` returns, without the padding.
    """
    height, width = lq.shape[-2:]
    down = -height % size_multiple
    right = -width % size_multiple
    if down or right:
        can_reflect = down < height and right < width
        mode = "reflect" if can_reflect else "replicate"
        lq = F.pad(lq, (0, right, 0, down), mode=mode)
    return restore(lq)[..., : height * scale, : width * scale]


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


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield starts and ends of the tiles that cover a side.

    The last one is moved back to end at the border.
    """
    if length <= tile:
        yield 0, length
        return
    start = 0
    while start + tile < length:
        yield start, start + tile
        start += tile - overlap
    yield length - tile, length


def _ramps(start: int, end: int, length: int, scale: int, overlap: int) -> Tensor:
    """Weigh the restored pixels of a span: 1, but less toward edges inside the image."""
    positions = torch.arange((end - start) * scale, dtype=torch.float32)
    distances = torch.full_like(positions, torch.inf)
    if start > 0:
        distances = positions + 1
    if end < length:
        distances = torch.minimum(distances, len(positions) - positions)
    return (distances / (overlap * scale + 1)).clamp(max=1)
