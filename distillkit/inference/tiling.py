"""Restoring an image piece by piece: overlapping tiles, blended with linear ramps, memory bounded by one row of tiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Restore = Callable[[Tensor], Tensor]
"""(1, 3, h, w) in [-1, 1] -> (K, 3, scale h, scale w)."""
Box = tuple[int, int, int, int]
"""Top, bottom, left, right in input pixels."""


def restored_bands(
    restore: Callable[[Box], Tensor],
    height: int,
    width: int,
    scale: int,
    *,
    tile: int,
    overlap: int,
) -> Iterator[tuple[int, Tensor]]:
    """The restored image from top to bottom, as bands of finished rows: no more than one row of tiles is held at a time.

    Neighbouring tiles are blended over their overlap by weights that rise linearly from their inner edges.

    Args:
        restore: gives the restored pixels of a box, (K, C, scale (bottom - top), scale (right - left)).
        tile, overlap: sides in input pixels; an image that fits into one tile is restored in one piece.

    Yields:
        the band's first row in the restored image, and the band (K, C, rows, scale width).

    Raises:
        ValueError: ``overlap`` is not below ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the tile's side {tile}")
    if height <= tile and width <= tile:
        yield 0, restore((0, height, 0, width))
        return
    rows, columns = list(_spans(height, tile, overlap)), list(_spans(width, tile, overlap))
    carried: tuple[Tensor, Tensor] | None = None
    for (top, bottom), (following, _) in itertools.pairwise([*rows, (height, height)]):
        total = weight = torch.empty(0)
        for left, right in columns:
            piece = restore((top, bottom, left, right))
            if not total.numel():
                total = piece.new_zeros(*piece.shape[:3], width * scale)
                weight = piece.new_zeros(piece.shape[2], width * scale)
            down, across = (
                _weights(top, bottom, height, scale, overlap),
                _weights(left, right, width, scale, overlap),
            )
            window = (down[:, None] * across).to(piece)
            total[..., left * scale : right * scale] += piece * window
            weight[:, left * scale : right * scale] += window
        if carried is not None:
            shared = carried[1].shape[0]
            total[..., :shared, :] += carried[0]
            weight[:shared] += carried[1]
        done = (following - top) * scale
        carried = total[..., done:, :].clone(), weight[done:].clone()
        yield top * scale, total[..., :done, :].div_(weight[:done])


def restore_padded(restore: Restore, lq: Tensor, scale: int, multiple: int) -> Tensor:
    """``restore`` with the sides padded to multiples of ``size_multiple``, the result cropped back."""
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


def _weights(start: int, end: int, length: int, scale: int, overlap: int) -> Tensor:
    """Weights of the restored pixels of a span: 1, but less toward an edge that is not the image's own."""
    x = torch.arange((end - start) * scale, dtype=torch.float32)
    from_start = x + 1 if start > 0 else torch.inf
    from_end = len(x) - x if end < length else torch.full_like(x, torch.inf)
    return (from_end.clamp(max=from_start) / (overlap * scale + 1)).clamp(max=1)
