"""Restoring an image piece by piece: overlapping tiles, blended with linear ramps, memory bounded by the tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Restore = Callable[[Tensor], Tensor]
"""(1, 3, h, w) in [-1, 1] -> (1, 3, scale h, scale w)."""


def restore_tiled(restore: Restore, lq: Tensor, scale: int, *, tile: int, overlap: int, multiple: int = 1) -> Tensor:
    """``restore`` over overlapping tiles of ``lq``, (1, 3, h, w) -> (1, 3, scale h, scale w).

    Args:
        tile, overlap: sides in input pixels; an image that fits into one tile is restored in one piece. Neighbouring tiles are
            blended over their overlap by weights that rise linearly from their edges.
        multiple: sides given to ``restore`` are padded to multiples of this by reflection, and the result is cropped.

    Raises:
        ValueError: ``overlap`` is not below ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the tile's side {tile}")
    _, channels, height, width = lq.shape
    if height <= tile and width <= tile:
        return restore_padded(restore, lq, scale, multiple)
    total = lq.new_zeros(1, channels, height * scale, width * scale)
    weight = lq.new_zeros(1, 1, height * scale, width * scale)
    for top, bottom in _spans(height, tile, overlap):
        for left, right in _spans(width, tile, overlap):
            piece = restore_padded(restore, lq[..., top:bottom, left:right], scale, multiple)
            window = _ramp(piece.shape[-2], overlap * scale)[:, None] * _ramp(piece.shape[-1], overlap * scale)[None, :]
            where = (..., slice(top * scale, bottom * scale), slice(left * scale, right * scale))
            total[where] += piece * window.to(piece)
            weight[where] += window.to(piece)
    return total / weight


def restore_padded(restore: Restore, lq: Tensor, scale: int, multiple: int) -> Tensor:
    """``restore`` with the sides padded to multiples of ``multiple``, the result cropped back."""
    height, width = lq.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        lq = F.pad(lq, (0, right, 0, down), mode=mode)
    return restore(lq)[..., : height * scale, : width * scale]


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Starts and ends of tiles that cover ``length``; the last one is moved back to end at the border."""
    if length <= tile:
        yield 0, length
        return
    start = 0
    while start + tile < length:
        yield start, start + tile
        start += tile - overlap
    yield length - tile, length


def _ramp(length: int, overlap: int) -> Tensor:
    distance = torch.arange(length, dtype=torch.float32)
    from_edge = torch.minimum(distance, length - 1 - distance) + 1
    return (from_edge / (overlap + 1)).clamp(max=1)
