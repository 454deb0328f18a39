"""The protocols of low-light papers: GT-mean before any metric, and the uniform-window SSIM.

GT-mean takes the brightness of the ground truth: the restored image is scaled so that its mean gray
is the ground truth's. Brightness error dominates PSNR in this task, so numbers with and without it
(several dB apart) must never share a column.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distillkit import FullReference, Metric, full_range_luma, psnr

WINDOW = 7
"""Pixels of a side of the uniform window."""
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
UNBIASED = WINDOW**2 / (WINDOW**2 - 1)
GT_MEAN = "GT-mean (mean gray scaled to the ground truth's, 8-bit truncated), then "


def to_levels(image: Tensor) -> Tensor:
    """Round [-1, 1] to what an 8-bit file holds, as float32 in 0..255."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round()


def gt_mean(restored: Tensor, gt: Tensor) -> Tensor:
    """Give ``restored`` the mean gray of ``gt``, as GSAD's evaluation does.

    ``out * mean(gray(gt)) / mean(gray(out))``, gray = .299 R + .587 G + .114 B: rounded to 8 bits,
    scaled, clipped, and brought to 8 bits again by *truncation*.

    Args:
        restored: (B, 3, H, W) in [-1, 1].
        gt: (B, 3, H, W) or (1, 3, H, W) in [-1, 1].

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    out = to_levels(restored) / 255
    ratio = _mean_gray(to_levels(gt) / 255) / _mean_gray(out).clamp(min=1e-6)
    levels = ((out * ratio).clamp(0, 1) * 255).floor()
    return levels / 127.5 - 1


def _mean_gray(image: Tensor) -> Tensor:
    return full_range_luma(image).mean((2, 3), keepdim=True)


def after_gt_mean(metric: Metric, name: str, *, bgr: bool = False) -> Metric:
    """Put GT-mean before a metric.

    Args:
        metric: The metric to measure with.
        name: Name of the result.
        bgr: Show the metric blue, green, red instead of red, green, blue, as GSAD's code shows
            LPIPS.
    """

    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        restored = gt_mean(restored, gt)
        if bgr:
            return metric(restored.flip(1), gt.flip(1))
        return metric(restored, gt)

    protocol = metric.protocol
    if bgr:
        protocol = protocol.replace("RGB", "BGR")
    return FullReference(
        name=name,
        protocol=GT_MEAN + protocol,
        function=measure,
        higher_is_better=metric.higher_is_better,
        differentiable=False,
        perceptual=metric.perceptual,
    )


def psnr_gtmean() -> Metric:
    """Make GSAD's PSNR."""
    return after_gt_mean(psnr(), "psnr-gtmean")


def ssim_uniform() -> Metric:
    """Make the SSIM of GSAD's code, without its GT-mean.

    It is what scikit-image computes by default.
    """
    return FullReference(
        name="ssim-uniform",
        protocol="RGB channel mean, 8-bit rounded, uniform 7x7 window, sample covariance, "
        "valid region (scikit-image default)",
        function=_ssim_uniform,
        higher_is_better=True,
        differentiable=False,
        perceptual=False,
        smallest_side=WINDOW,
    )


def ssim_uniform_gtmean() -> Metric:
    """Make GSAD's SSIM."""
    return after_gt_mean(ssim_uniform(), "ssim-uniform-gtmean")


def _ssim_uniform(restored: Tensor, gt: Tensor) -> Tensor:
    """Measure SSIM with a uniform window and sample covariances, (B,)."""
    x = to_levels(restored).double()
    y = to_levels(gt).double()
    mean_x = _window_mean(x)
    mean_y = _window_mean(y)
    var_x = UNBIASED * (_window_mean(x * x) - mean_x * mean_x)
    var_y = UNBIASED * (_window_mean(y * y) - mean_y * mean_y)
    covariance = UNBIASED * (_window_mean(x * y) - mean_x * mean_y)
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    normalizer = (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    return (similarity / normalizer).mean((1, 2, 3)).float()


def _window_mean(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW, stride=1)
