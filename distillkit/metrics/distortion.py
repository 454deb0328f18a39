"""PSNR and SSIM, of colors and of luma. They see what a saved 8-bit file would hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.luma import studio_range_luma
from distillkit.files.images import to_uint8
from distillkit.metrics.base import FullReference, Metric

PSNR_CAP = 100.0
"""dB. The PSNR of equal images is infinite; the cap keeps means and differences finite."""
WINDOW = 11
"""Pixels of a side of SSIM's Gaussian window."""
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
_GAUSSIAN = "Gaussian 11x11 sigma 1.5, valid region, K .01/.03"


def psnr() -> Metric:
    """Make PSNR over the three color channels."""
    return _distortion(
        name="psnr",
        protocol="RGB, 8-bit rounded, peak 255, no border crop, capped at 100 dB",
        function=_psnr_of_colors,
    )


def psnr_y() -> Metric:
    """Make PSNR of the luma, as published tables of image restoration give it."""
    return _distortion(
        name="psnr-y",
        protocol="Y of BT.601 (16-235, not rounded) of 8-bit RGB, peak 255, no border crop, "
        "capped at 100 dB",
        function=_psnr_of_luma,
    )


def ssim() -> Metric:
    """Make SSIM of Wang et al. 2004, the mean of the three color channels."""
    return _distortion(
        name="ssim",
        protocol=f"RGB channel mean, 8-bit rounded, {_GAUSSIAN}, float64",
        function=_ssim_of_colors,
        smallest_side=WINDOW,
    )


def ssim_y() -> Metric:
    """Make SSIM of the rounded luma, as published tables of image restoration give it.

    They clip the contrast-structure term at 0.
    """
    return _distortion(
        name="ssim-y",
        protocol=f"Y of BT.601 (16-235, rounded) of 8-bit RGB, {_GAUSSIAN}, cs >= 0, float64",
        function=_ssim_of_luma,
        smallest_side=WINDOW,
    )


def _distortion(
    name: str,
    protocol: str,
    function: Callable[[Tensor, Tensor], Tensor],
    smallest_side: int = 1,
) -> Metric:
    return FullReference(
        name=name,
        protocol=protocol,
        function=function,
        higher_is_better=True,
        differentiable=False,
        perceptual=False,
        smallest_side=smallest_side,
    )


def psnr_from_mse(mse: Tensor, peak: float) -> Tensor:
    """Convert mean squared errors to PSNR.

    Args:
        mse: Mean squared errors, of any shape.
        peak: The range of the images' values: 255, or 2 for images in [-1, 1].

    Returns:
        ``10 log10(peak^2 / mse)`` in dB, at most :data:`PSNR_CAP`.
    """
    return (10 * torch.log10(peak**2 / mse)).clamp(max=PSNR_CAP)


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    mse = (a - b).square().mean(dim=(1, 2, 3))
    return psnr_from_mse(mse, peak=255).float()


def _psnr_of_colors(restored: Tensor, gt: Tensor) -> Tensor:
    return _psnr(_colors(restored), _colors(gt))


def _psnr_of_luma(restored: Tensor, gt: Tensor) -> Tensor:
    return _psnr(_luma(restored), _luma(gt))


def _ssim_of_colors(restored: Tensor, gt: Tensor) -> Tensor:
    luminance, contrast_structure = _ssim_terms(_colors(restored), _colors(gt))
    similarity = luminance * contrast_structure
    return similarity.mean(dim=(1, 2, 3)).float()


def _ssim_of_luma(restored: Tensor, gt: Tensor) -> Tensor:
    a = _luma(restored).round()
    b = _luma(gt).round()
    luminance, contrast_structure = _ssim_terms(a, b)
    similarity = luminance * contrast_structure.clamp(min=0)
    return similarity.mean(dim=(1, 2, 3)).float()


def _colors(image: Tensor) -> Tensor:
    """Return the values of a saved file, 0 to 255, in float64."""
    return to_uint8(image).double()


def _luma(image: Tensor) -> Tensor:
    """Return the luma of a saved file, 16 to 235, in float64, not rounded."""
    return studio_range_luma(_colors(image))


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute SSIM's two terms wherever the window lies inside the image.

    torchmetrics gives the same numbers to 4e-13, but in float64 it takes 7 to 19 times as long,
    and in float32 it is off by 3e-5.

    Args:
        a: (B, C, H, W), float64.
        b: (B, C, H, W), float64.

    Returns:
        The luminance and the contrast-structure term, each (B, C, H - 10, W - 10).
    """
    mean_a = _blur(a)
    mean_b = _blur(b)
    variance_a = _blur(a * a) - mean_a**2
    variance_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    contrast_structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return luminance, contrast_structure


def _blur(image: Tensor) -> Tensor:
    """Average an image (B, C, H, W) under the Gaussian window, channel by channel."""
    # Two passes with a line give the square window in 22 instead of 121 products per pixel.
    reach = WINDOW // 2
    x = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    line = torch.exp(-(x**2) / (2 * SIGMA**2))
    line = line / line.sum()
    planes = image.flatten(0, 1).unsqueeze(1)
    blurred = F.conv2d(planes, line.view(1, 1, -1, 1))
    blurred = F.conv2d(blurred, line.view(1, 1, 1, -1))
    return blurred.unflatten(0, image.shape[:2]).squeeze(2)
