"""Giving a restored image the colors of its input, which generative models shift. For models that are to change colors, use none.

Both fixes see the whole image, never a tile of it, and work in bands of rows, so that memory stays bounded. Arrays are
(height, width, channels), uint8, uint16 or float in [0, 1]; the formulas are those of StableSR (Wang et al. 2024), for values in
[0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.inference.image_types import quantized, to_unit

ColorFix = Literal["none", "adain", "wavelet"]
LEVELS = 5
EPS = 1e-5
"""Added to variances in [0, 1]."""
BAND = 512
"""Rows of the input, divided by the scale, that are worked on at a time."""


def fix_colors(restored: np.ndarray, lq: np.ndarray, how: ColorFix) -> None:
    """Change ``restored`` (scale h, scale w, C) in place to have the colors of ``lq`` (h, w, C).

    ``"adain"``: the mean and standard deviation of every channel become those of the input. ``"wavelet"``: all but the fine detail
    (five levels) becomes that of the input, enlarged bicubically.
    """
    if how == "adain":
        _adain(restored, lq)
    elif how == "wavelet":
        _wavelet(restored, lq)


def coarse(image: Tensor, levels: int = LEVELS) -> Tensor:
    """(B, C, h, w) blurred ``levels`` times with [1, 2, 1] x [1, 2, 1] / 16 at dilation 1, 2, 4, ..., edges repeated."""
    row = image.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(image.shape[1], 1, 3, 3)
    for dilation in (2**i for i in range(levels)):
        image = F.conv2d(
            F.pad(image, [dilation] * 4, mode="replicate"),
            kernel,
            dilation=dilation,
            groups=image.shape[1],
        )
    return image


def _adain(restored: np.ndarray, lq: np.ndarray) -> None:
    (mean, std), (wanted_mean, wanted_std) = _statistics(restored), _statistics(lq)
    for top, bottom in _bands(len(restored), BAND):
        band = (to_unit(restored[top:bottom]) - mean) / std * wanted_std + wanted_mean
        restored[top:bottom] = quantized(band, restored.dtype)


def _wavelet(restored: np.ndarray, lq: np.ndarray) -> None:
    scale = len(restored) // len(lq)
    halo = -(-(2**LEVELS) // scale)  # rows of the input that a blur reaches
    above = restored[:0]  # rows above the band as they were before the fix
    for top, bottom in _bands(len(lq), max(1, BAND // scale)):
        first, last = max(0, top - halo), min(len(lq), bottom + halo)
        rows = np.concatenate(
            [above[len(above) - (top - first) * scale :], restored[top * scale : last * scale]]
        )
        above = rows[: (bottom - first) * scale]
        image = to_unit(rows)
        fixed = image - coarse(image) + coarse(_enlarged_rows(lq, first, last, scale).to(image))
        inside = fixed[..., (top - first) * scale : (bottom - first) * scale, :]
        restored[top * scale : bottom * scale] = quantized(inside, restored.dtype)


def _enlarged_rows(lq: np.ndarray, first: int, last: int, scale: int) -> Tensor:
    """Rows ``first`` to ``last`` of the input, enlarged bicubically as the whole of it would be."""
    start, end = max(0, first - 3), min(len(lq), last + 3)  # the kernel reaches two rows
    if scale == 1:
        return to_unit(lq[first:last])
    enlarged = F.interpolate(to_unit(lq[start:end]), scale_factor=scale, mode="bicubic")
    return enlarged[..., (first - start) * scale : (last - start) * scale, :].clamp(-1, 1)


def _statistics(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (1, C, 1, 1), on the scale of [-1, 1]."""
    count, channels = image.shape[0] * image.shape[1], image.shape[2]
    total, squares = (
        torch.zeros(channels, dtype=torch.float64),
        torch.zeros(channels, dtype=torch.float64),
    )
    for top, bottom in _bands(len(image), BAND):
        band = to_unit(image[top:bottom]).double()
        total += band.sum((0, 2, 3))
        squares += band.square().sum((0, 2, 3))
    mean = total / count
    variance = (squares - count * mean**2).clamp(min=0) / max(1, count - 1)
    std = (variance + 4 * EPS).sqrt()  # variances in [-1, 1] are four times as large
    return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)


def _bands(length: int, rows: int) -> Iterator[tuple[int, int]]:
    for top in range(0, length, rows):
        yield top, min(length, top + rows)
