"""Denoising a latent larger than the UNet likes in overlapping tiles, as OSEDiff does (after StableSR, Wang et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def denoise_tiled(
    denoise: Callable[[Tensor], Tensor], latent: Tensor, tile: int = 96, overlap: int = 32
) -> Tensor:
    """``denoise(latent)``; beyond ``tile^2`` positions in overlapping tiles, their predictions averaged with Gaussian weights.

    Args:
        denoise: a latent (B, C, h, w) -> of the same shape.
        latent: (B, C, H, W). tile: side; at most the latent's shorter side is used. overlap: of neighboring tiles, below ``tile``.
    """
    height, width = latent.shape[2:]
    if height * width <= tile**2:
        return denoise(latent)
    tile = min(tile, height, width)
    weight = tile_weight(tile).to(latent)
    total, weights = torch.zeros_like(latent), torch.zeros_like(latent[:1, :1])
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            area = (..., slice(top, top + tile), slice(left, left + tile))
            total[area] += denoise(latent[area]) * weight
            weights[area] += weight
    return total / weights


def tile_weight(tile: int) -> Tensor:
    """Weights of a tile's values, (tile, tile): a Gaussian of variance 0.01 in units of the side, in float64.

    Its middle is ``(tile - 1) / 2`` from the left but ``tile / 2`` from the top: the published code's asymmetry, kept.
    """
    position = torch.arange(tile, dtype=torch.float64)

    def profile(middle: float) -> Tensor:
        return torch.exp(-(((position - middle) / tile) ** 2) / (2 * 0.01)) / math.sqrt(
            2 * math.pi * 0.01
        )

    return profile(tile / 2)[:, None] * profile((tile - 1) / 2)


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles start along a side: every ``tile - overlap``, the last one moved back to the border."""
    step = tile - overlap
    return [min(i * step, side - tile) for i in range(math.ceil(max(side - tile, 0) / step) + 1)]
