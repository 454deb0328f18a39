"""NIQE, which judges naturalness without a reference.

Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", 2013. Blocks of
the image are described by 36 numbers of natural scene statistics; NIQE is the distance of their
Gaussian to one that was fitted to pristine photographs. The pristine mean and covariance come from
a file.

Where a region is flat, whatever its gray, all that remains of it is rounding: there NIQE depends on
the order of operations and on the precision of each. Both follow pyiqa, whose numbers are the
published ones: the gray is computed in float32, local moments under one 2-D kernel whose weights
are float32, everything else in float64.
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

from distillkit.errors import DataError, WeightsError
from distillkit.files.images import to_uint8
from distillkit.metrics.base import Metric, NoReference

BLOCK = 96
FEATURES = 36
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbors, down and right, whose products are described."""
PROTOCOL = (
    "no reference; Y of YIQ of 8-bit RGB, rounded, 96x96 blocks (48x48 at half size), "
    "remainder at right and bottom left out, no border crop, parameters {name}"
)
YIQ_WEIGHTS = (0.299, 0.587, 0.114)
Array = NDArray[np.float64]


def niqe(parameters: Path) -> Metric:
    """Make NIQE with the pristine parameters of a file.

    Args:
        parameters: An ``.npz`` with ``mu_pris_param`` (1, 36) and ``cov_pris_param`` (36, 36).

    Raises:
        WeightsError: The file is missing, damaged, or holds something else.
    """
    mean, covariance = _read_parameters(parameters)

    def measure(images: Tensor) -> Tensor:
        values = []
        for image in images.split(1):
            values.append(_distance(block_features(image), mean, covariance))
        return torch.tensor(values)

    return NoReference(
        name="niqe",
        protocol=PROTOCOL.format(name=parameters.name),
        function=measure,
        higher_is_better=False,
    )


def block_features(image: Tensor) -> Array:
    """Describe each 96x96 block of an image: 18 numbers at full size, and 18 at half size.

    Args:
        image: (1, 3, H, W) in [-1, 1].

    Returns:
        (blocks, 36).

    Raises:
        DataError: Fewer than two blocks, which have no covariance.
    """
    height, width = image.shape[2:]
    rows = height // BLOCK
    columns = width // BLOCK
    if rows * columns < 2:
        needed = f"at least two blocks of {BLOCK}x{BLOCK} pixels"
        raise DataError(f"NIQE needs an image of {needed}, not {width}x{height}")
    luma = _gray(to_uint8(image))
    luma = luma[..., : rows * BLOCK, : columns * BLOCK]
    at_full_size = _describe_blocks(_normalize(luma), BLOCK)
    at_half_size = _describe_blocks(_normalize(_halve(luma)), BLOCK // 2)
    return torch.cat([at_full_size, at_half_size], dim=1).cpu().numpy()


def _gray(image: Tensor) -> Tensor:
    """Compute Y of YIQ, rounded, as float32 gives it.

    One pixel in a thousand lies halfway between two grays. Which one it becomes depends on the
    rounding of each step, so these are the steps of a float32 matrix product: ``/ 255`` as a
    product, and each weighted color added with a single rounding.

    Args:
        image: uint8, (1, 3, H, W).

    Returns:
        (1, 1, H, W), whole numbers in float64.
    """
    colors = image.float() * torch.tensor(1 / 255)
    # A product of two float32 is exact in float64: only the sum is rounded.
    red, green, blue = colors.double().split(1, dim=1)
    weights = torch.tensor(YIQ_WEIGHTS).double()
    gray = (weights[0] * red).float()
    gray = (weights[1] * green + gray).float()
    gray = (weights[2] * blue + gray).float()
    return (gray * 255).round().double()


def _normalize(luma: Tensor) -> Tensor:
    """Subtract the local mean and divide by the local contrast: ``(I - mu) / (sigma + 1)``.

    Local moments are taken under a 7x7 Gaussian of sigma 7/6.
    """
    kernel = _gaussian_kernel().to(luma.device)

    def blur(image: Tensor) -> Tensor:
        padded = F.pad(image, (3, 3, 3, 3), mode="replicate")
        return F.conv2d(padded, kernel)

    mean = blur(luma)
    variance = (blur(luma.square()) - mean.square()).abs()
    deviation = (variance + torch.finfo(luma.dtype).eps).sqrt()
    return (luma - mean) / (deviation + 1)


@functools.cache
def _gaussian_kernel() -> Tensor:
    """Make the 7x7 Gaussian, (1, 1, 7, 7) in float64.

    Its weights are float32: their sum is not exactly 1, and that is what a flat region shows.
    """
    x = torch.arange(-3, 4, dtype=torch.float64)
    squared_radius = x[:, None] ** 2 + x[None, :] ** 2
    kernel = torch.exp(-squared_radius / (2 * (7 / 6) ** 2))
    kernel = kernel / kernel.sum()
    return kernel.float().double()[None, None]


def _halve(luma: Tensor) -> Tensor:
    """Halve the size by antialiased bicubic interpolation (a = -0.5, eight taps).

    Borders are mirrored with their edge.
    """
    taps = torch.arange(-3.5, 4, dtype=luma.dtype, device=luma.device)
    distance = taps.abs() / 2
    inner = 1.5 * distance**3 - 2.5 * distance**2 + 1
    outer = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    line = torch.where(distance <= 1, inner, outer)
    line = line / line.sum()
    halved = F.conv2d(_mirror(luma, dim=2), line.view(1, 1, -1, 1), stride=(2, 1))
    return F.conv2d(_mirror(halved, dim=3), line.view(1, 1, 1, -1), stride=(1, 2))


def _mirror(image: Tensor, dim: int) -> Tensor:
    """Extend an image by three mirrored rows or columns on both sides."""
    last = image.shape[dim] - 3
    before = image.narrow(dim, 0, 3).flip(dim)
    after = image.narrow(dim, last, 3).flip(dim)
    return torch.cat([before, image, after], dim)


def _describe_blocks(normalized: Tensor, side: int) -> Tensor:
    """Describe blocks of ``side`` pixels, row by row: (1, 1, H, W) -> (blocks, 18).

    The numbers are shape and mean scale of the generalized Gaussian of a block's values; then
    shape, mean, left and right scale of the products of neighbors, which wrap around within the
    block.
    """
    blocks = normalized[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)
    shape, left, right = _fit_asymmetric_gaussian(blocks)
    numbers = [shape, (left + right) / 2]
    for shift in SHIFTS:
        products = blocks * blocks.roll(shift, (1, 2))
        shape, left, right = _fit_asymmetric_gaussian(products)
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        numbers += [shape, mean, left, right]
    return torch.stack(numbers, dim=1)


def _fit_asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the asymmetric generalized Gaussian with the moments of each block (n, h, w).

    Returns:
        Shape, left scale and right scale, each (n,).
    """
    values = blocks.flatten(1)
    left = (values.clamp(max=0).square().sum(1) / (values < 0).sum(1)).sqrt()
    right = (values.clamp(min=0).square().sum(1) / (values > 0).sum(1)).sqrt()
    skew = left / right
    ratio = values.abs().mean(1).square() / values.square().mean(1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shape = _shape_of_ratio(ratio)
    width = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * width, right * width


def _shape_of_ratio(ratio: Tensor) -> Tensor:
    """Look up the shape whose moment ratio is nearest."""
    # A flat block has no ratio (0 / 0); its NaN scales mark it for _distance.
    shapes, ratios = (table.to(ratio.device) for table in _shape_table())
    nearest = torch.searchsorted(ratios, ratio.nan_to_num()).clamp(1, len(shapes) - 1)
    below_is_nearer = ratio - ratios[nearest - 1] < ratios[nearest] - ratio
    return shapes[nearest - below_is_nearer.long()]


@functools.cache
def _shape_table() -> tuple[Tensor, Tensor]:
    """Tabulate ``gamma(2/a)^2 / (gamma(1/a) gamma(3/a))`` for the shapes a = 0.2, 0.201 ... 10."""
    a = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    log_ratio = 2 * torch.lgamma(2 / a) - torch.lgamma(1 / a) - torch.lgamma(3 / a)
    return a, torch.exp(log_ratio)


def _distance(features: Array, mean: Array, covariance: Array) -> float:
    """Measure the distance of the Gaussian of ``features`` to the pristine one.

    ``sqrt(d' ((S_1 + S_2) / 2)^+ d)``; flat blocks have no part in S_1.
    """
    # As published, the mean counts what flat blocks do have, the covariance leaves them out.
    textured = features[~np.isnan(features).any(axis=1)]
    if len(textured) < 2:
        raise DataError("NIQE needs at least two blocks that are not flat")
    d = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(textured, rowvar=False)) / 2)
    return float(np.sqrt(d @ inverse @ d))


def _read_parameters(path: Path) -> tuple[Array, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            mean = np.asarray(file["mu_pris_param"], np.float64)
            covariance = np.asarray(file["cov_pris_param"], np.float64)
    except FileNotFoundError:
        raise WeightsError(f"{path} - no such file of NIQE parameters") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as e:
        wanted = "a file of NIQE parameters (mu_pris_param, cov_pris_param)"
        raise WeightsError(f"{path} - not {wanted}: {e}") from e
    right_shapes = mean.size == FEATURES and covariance.shape == (FEATURES, FEATURES)
    if not (right_shapes and np.isfinite(mean).all() and np.isfinite(covariance).all()):
        shapes = f"{mean.shape} and {covariance.shape}"
        raise WeightsError(
            f"{path} - not NIQE parameters: {shapes}, expected 36 and 36 x 36 finite numbers"
        )
    return mean.reshape(FEATURES), covariance
