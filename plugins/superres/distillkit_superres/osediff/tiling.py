"""Denoising a large latent in overlapping tiles.

OSEDiff does so where a latent is larger than the UNet likes (after StableSR, Wang et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TILE_WEIGHT_VARIANCE = 0.01
"""Variance of a tile's Gaussian weights, in units of its side."""


def denoise_tiled(
    denoise: Callable[[Tensor], Tensor],
    latent: Tensor,
    tile: int = 96,
    overlap: int = 32,
) -> Tensor:
    """Denoise a latent, in tiles where it has more than ``tile^2`` positions.

    The predictions of overlapping tiles are averaged with Gaussian weights.

    Args:
        denoise: Denoises a latent (B, C, h, w) to one of the same shape.
        latent: Shape (B, C, H, W).
        tile: Side of a tile; at most the latent's shorter side is used.
        overlap: Overlap of neighboring tiles, below ``tile``.
    """
    height, width = latent.shape[2:]
    if height * width <= tile**2:
        return denoise(latent)
    tile = min(tile, height, width)
    weight = tile_weight(tile).to(latent)
    total = torch.zeros_like(latent)
    total_weight = torch.zeros_like(latent[:1, :1])
    for top in _tile_starts(height, tile, overlap):
        for left in _tile_starts(width, tile, overlap):
            rows = slice(top, top + tile)
            columns = slice(left, left + tile)
            area = (..., rows, columns)
            total[area] += denoise(latent[area]) * weight
            total_weight[area] += weight
    return total / total_weight


def tile_weight(tile: int) -> Tensor:
    """Compute the Gaussian weights of a tile.

    Returns:
        Shape (tile, tile), float64.
    """
    # The published code centers columns and rows differently, which is kept.
    by_row = _weight_profile(tile, center=tile / 2)
    by_column = _weight_profile(tile, center=(tile - 1) / 2)
    return by_row[:, None] * by_column


def _weight_profile(tile: int, center: float) -> Tensor:
    position = torch.arange(tile, dtype=torch.float64)
    distance = (position - center) / tile
    density = torch.exp(-(distance**2) / (2 * TILE_WEIGHT_VARIANCE))
    return density / math.sqrt(2 * math.pi * TILE_WEIGHT_VARIANCE)


def _tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """List where tiles start along a side.

    They start every ``tile - overlap``; the last one is moved back to the border.
    """
    step = tile - overlap
    last = side - tile
    number = math.ceil(max(last, 0) / step) + 1
    return [min(i * step, last) for i in range(number)]
