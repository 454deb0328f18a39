"""NIQE (Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", 2013), which needs no reference.

Blocks of the image are described by 36 numbers of natural scene statistics; NIQE is the distance of their Gaussian to one that was
fitted to pristine photographs. The pristine mean and covariance come from a file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distillkit.data.luma import full_range_luma
from distillkit.errors import DataError, WeightsError
from distillkit.files.images import to_uint8
from distillkit.metrics.base import Metric, NoReference

BLOCK = 96
FEATURES = 36
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbours, down and right, whose products are described."""
PROTOCOL = (
    "no reference; Y of YIQ of 8-bit RGB, rounded, 96x96 blocks (48x48 at half size), remainder at right and bottom left out, "
    "no border crop, parameters {name}"
)


def niqe(parameters: Path) -> Metric:
    """NIQE with the pristine parameters of a file.

    Args:
        parameters: an ``.npz`` with ``mu_pris_param`` (1, 36) and ``cov_pris_param`` (36, 36).

    Raises:
        WeightsError: the file is missing, damaged, or holds something else.
    """
    mean, covariance = _read(parameters)

    def value(images: Tensor) -> Tensor:
        return torch.tensor(
            [_distance(block_features(image), mean, covariance) for image in images.split(1)]
        )

    return NoReference("niqe", PROTOCOL.format(name=parameters.name), value, higher_is_better=False)


def block_features(image: Tensor) -> NDArray[np.float64]:
    """(1, 3, H, W) in [-1, 1] -> (blocks, 36): 18 numbers of each 96x96 block at full size, and 18 at half size.

    Raises:
        DataError: fewer than two blocks, which have no covariance.
    """
    rows, columns = (side // BLOCK for side in image.shape[2:])
    if rows * columns < 2:
        height, width = image.shape[2:]
        raise DataError(
            f"NIQE needs an image of at least two blocks of {BLOCK}x{BLOCK} pixels, not {width}x{height}"
        )
    gray = _gray(image)[..., : rows * BLOCK, : columns * BLOCK]
    scales = [
        _described(_normalised(gray), BLOCK),
        _described(_normalised(_halved(gray)), BLOCK // 2),
    ]
    return torch.cat(scales, dim=1).cpu().numpy()


def _gray(image: Tensor) -> Tensor:
    """Y of YIQ, (1, 1, H, W) float64 in [0, 255], rounded."""
    return full_range_luma(to_uint8(image).double()).round()


def _normalised(gray: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalized: ``(I - mu) / (sigma + 1)``, local moments under a 7x7 Gaussian of sigma 7/6."""
    x = torch.arange(-3, 4, dtype=gray.dtype, device=gray.device)
    line = torch.exp(-(x**2) / (2 * (7 / 6) ** 2))
    line = line / line.sum()

    def blur(v: Tensor) -> Tensor:
        padded = F.pad(v, (3, 3, 3, 3), mode="replicate")
        return F.conv2d(F.conv2d(padded, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean = blur(gray)
    return (gray - mean) / ((blur(gray.square()) - mean.square()).abs().sqrt() + 1)


def _halved(gray: Tensor) -> Tensor:
    """Half the size by antialiased bicubic interpolation (a = -0.5, eight taps), borders mirrored with their edge."""
    distance = torch.arange(-3.5, 4, dtype=gray.dtype, device=gray.device).abs() / 2
    inner = 1.5 * distance**3 - 2.5 * distance**2 + 1
    outer = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    line = torch.where(distance <= 1, inner, outer)
    line = line / line.sum()
    for dim, kernel in ((2, line.view(1, 1, -1, 1)), (3, line.view(1, 1, 1, -1))):
        before, after = (
            gray.narrow(dim, 0, 3).flip(dim),
            gray.narrow(dim, gray.shape[dim] - 3, 3).flip(dim),
        )
        stride = (2, 1) if dim == 2 else (1, 2)
        gray = F.conv2d(torch.cat([before, gray, after], dim), kernel, stride=stride)
    return gray


def _described(normalized: Tensor, side: int) -> Tensor:
    """(1, 1, H, W) -> (blocks, 18), blocks of ``side`` row by row.

    Shape and mean scale of the generalised Gaussian of a block's values; shape, mean, left and right scale of that of the products
    of neighbors, which wrap around within the block.
    """
    blocks = normalized[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)
    shape, left, right = _asymmetric_gaussian(blocks)
    found = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        found += [shape, mean, left, right]
    return torch.stack(found, dim=1)


@functools.cache
def _shapes() -> tuple[Tensor, Tensor]:
    """Candidate shapes 0.2, 0.201 ... 10, and ``gamma(2/a)^2 / (gamma(1/a) gamma(3/a))`` of each."""
    a = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    return a, torch.exp(2 * torch.lgamma(2 / a) - torch.lgamma(1 / a) - torch.lgamma(3 / a))


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale, each (n,), of the asymmetric generalised Gaussian with the moments of ``blocks`` (n, h, w)."""
    v = blocks.flatten(1)
    left = (v.clamp(max=0).square().sum(1) / (v < 0).sum(1)).sqrt()
    right = (v.clamp(min=0).square().sum(1) / (v > 0).sum(1)).sqrt()
    skew = left / right
    ratio = v.abs().mean(1).square() / v.square().mean(1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shapes, of_shape = (table.to(v.device) for table in _shapes())
    nearest = torch.searchsorted(of_shape, ratio.nan_to_num()).clamp(1, len(shapes) - 1)
    nearest -= (ratio - of_shape[nearest - 1] < of_shape[nearest] - ratio).long()
    shape = shapes[nearest]
    width = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * width, right * width


def _distance(
    features: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> float:
    """``sqrt(d' ((S_1 + S_2) / 2)^+ d)`` of the Gaussian of ``features`` and the pristine one; flat blocks are left out of S_1."""
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        raise DataError("NIQE needs at least two blocks that are not flat")
    d = mean - np.nanmean(features, axis=0)
    return float(np.sqrt(d @ np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2) @ d))


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (
                np.asarray(file[key], np.float64) for key in ("mu_pris_param", "cov_pris_param")
            )
    except FileNotFoundError:
        raise WeightsError(f"{path} - no such file of NIQE parameters") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as e:
        raise WeightsError(
            f"{path} - not a file of NIQE parameters (mu_pris_param, cov_pris_param): {e}"
        ) from e
    if (
        mean.size != FEATURES
        or covariance.shape != (FEATURES, FEATURES)
        or not np.isfinite([*mean.flat, *covariance.flat]).all()
    ):
        shapes = f"{mean.shape} and {covariance.shape}"
        raise WeightsError(
            f"{path} - not NIQE parameters: {shapes}, expected 36 and 36 x 36 finite numbers"
        )
    return mean.reshape(FEATURES), covariance
