"""Give restored images the colors of their inputs, which generative models shift.

The formulas are those of StableSR (Wang et al. 2024), for values in [0, 1]. Models that are meant
to change colors need no fix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.inference.image_types import quantized, to_unit
from distillkit.recipe.schema import ColorFix

WAVELET_LEVELS = 5
EPS = 1e-5
"""Added to variances of values in [0, 1]."""
BAND_ROWS = 512
"""Rows of the result that are worked on at a time."""


def wavelet(image: Tensor, reference: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """Put the fine detail of images on the coarse colors of their references.

    Args:
        image: (B, C, H, W), of any range.
        reference: The same shape and range.
        levels: As of :func:`blur`, which leaves the coarse part of an image.
    """
    return image - blur(image, levels) + blur(reference, levels)


def blur(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """Blur (B, C, H, W) as the "à trous" wavelet transform does.

    Level i convolves with [1, 2, 1] x [1, 2, 1] / 16 at dilation 2^i, with edges repeated.
    """
    channels = image.shape[1]
    row = image.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    for level in range(levels):
        dilation = 2**level
        padded = F.pad(image, [dilation] * 4, mode="replicate")
        image = F.conv2d(padded, kernel, dilation=dilation, groups=channels)
    return image


def fix_colors(restored: np.ndarray, lq: np.ndarray, fix: ColorFix) -> None:
    """Give a restored image the colors of its input, in place.

    ``"adain"``, adaptive instance normalization, gives each channel the mean and standard deviation
    of the input's; ``"wavelet"`` puts the fine detail of the image on the coarse colors of the
    input. A fix sees the full image, never a tile of it; it works in bands of rows, so that memory
    stays bounded, and on the scale of [-1, 1].

    Args:
        restored: (scale h, scale w, C), uint8, uint16 or float in [0, 1].
        lq: (h, w, C) of the same kind; enlarged bicubically for ``"wavelet"``.
        fix: ``"none"`` leaves the image as it is.
    """
    if fix == "adain":
        _fix_by_adain(restored, lq)
    elif fix == "wavelet":
        _fix_by_wavelet(restored, lq)


def fix_8_bit_colors(restored: Tensor, lq: Tensor, fix: ColorFix) -> Tensor:
    """Return a restored image with the colors of its input: :func:`fix_colors` for 8-bit tensors.

    Args:
        restored: (1, 3, scale h, scale w), uint8.
        lq: (1, 3, h, w), uint8.
        fix: As of :func:`fix_colors`.
    """
    if fix == "none":
        return restored
    pixels = restored[0].permute(1, 2, 0).cpu().numpy().copy()
    fix_colors(pixels, lq[0].permute(1, 2, 0).cpu().numpy(), fix)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(restored.device)


class _Channels(NamedTuple):
    """Mean and standard deviation of each channel, (B, C, 1, 1)."""

    mean: Tensor
    std: Tensor


def _exchange(image: Tensor, own: _Channels, wanted: _Channels) -> Tensor:
    return (image - own.mean) / own.std * wanted.std + wanted.mean


def _measure_in_bands(image: np.ndarray) -> _Channels:
    """Measure the channels of an array (h, w, C), on the scale of [-1, 1]."""
    height, width, channels = image.shape
    count = height * width
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    for rows in _bands(height):
        band = to_unit(image[rows]).double()
        total += band.sum((0, 2, 3))
        squares += band.square().sum((0, 2, 3))
    mean = total / count
    variance = (squares - count * mean**2).clamp(min=0) / max(1, count - 1)
    # Variances in [-1, 1] are four times those in [0, 1].
    std = (variance + 4 * EPS).sqrt()
    return _Channels(mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1))


def _fix_by_adain(restored: np.ndarray, lq: np.ndarray) -> None:
    own = _measure_in_bands(restored)
    wanted = _measure_in_bands(lq)
    for rows in _bands(len(restored)):
        band = _exchange(to_unit(restored[rows]), own, wanted)
        restored[rows] = quantized(band, restored.dtype)


def _fix_by_wavelet(restored: np.ndarray, lq: np.ndarray) -> None:
    height = len(lq)
    scale = len(restored) // height
    # Blurs reach 1 + 2 + 4 + ... rows of the result; in rows of the input, rounded up.
    halo = math.ceil(2**WAVELET_LEVELS / scale)
    step = max(1, BAND_ROWS // scale)
    # Rows above a band as they were before the fix; in the image they are overwritten by then.
    unfixed = restored[:0]
    for top in range(0, height, step):
        bottom = min(height, top + step)
        first = max(0, top - halo)
        last = min(height, bottom + halo)
        rows_above = (top - first) * scale
        rows = (bottom - top) * scale
        above = unfixed[len(unfixed) - rows_above :]
        image = np.concatenate([above, restored[top * scale : last * scale]])
        unfixed = image[: rows_above + rows]
        reference = _enlarge_rows(lq, first, last, scale)
        fixed = wavelet(to_unit(image), reference)
        band = fixed[..., rows_above : rows_above + rows, :]
        restored[top * scale : bottom * scale] = quantized(band, restored.dtype)


def _enlarge_rows(lq: np.ndarray, first: int, last: int, scale: int) -> Tensor:
    """Enlarge some rows of the input, as if the full image were enlarged bicubically."""
    if scale == 1:
        return to_unit(lq[first:last])
    # The kernel reaches two rows beyond; a third is spare.
    start = max(0, first - 3)
    end = min(len(lq), last + 3)
    enlarged = F.interpolate(to_unit(lq[start:end]), scale_factor=scale, mode="bicubic")
    return enlarged[..., (first - start) * scale : (last - start) * scale, :].clamp(-1, 1)


def _bands(height: int) -> Iterator[slice]:
    for top in range(0, height, BAND_ROWS):
        yield slice(top, top + BAND_ROWS)
