"""The protocols of low-light papers that a general toolkit lacks: GT-mean before any metric, and the uniform-window SSIM.

GT-mean takes the brightness of the ground truth: the restored image is scaled so that its mean gray is the ground truth's.
Brightness error dominates PSNR in this task, so numbers with and without it (several dB apart) must never share a column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import Metric, full_range_luma

PSNR_CAP = 100.0
"""dB, for equal images."""


@dataclass(frozen=True)
class Measure:
    """A :class:`distillkit.Metric` around a function ``(restored, gt) -> (B,)`` of images (B, 3, H, W) in [-1, 1]."""

    name: str
    protocol: str
    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True
    differentiable: bool = False
    perceptual: bool = False

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        return self.function(restored, gt)


def to_levels(image: Tensor) -> Tensor:
    """[-1, 1] -> what an 8-bit file would hold, clamped and rounded, float32 in 0..255."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round()


def gt_mean(restored: Tensor, gt: Tensor) -> Tensor:
    """``restored`` with the mean gray of ``gt``, as GSAD's evaluation makes it: 8 bits, scale, clip, 8 bits by *truncation*.

    ``out * mean(gray(gt)) / mean(gray(out))``, gray = .299 R + .587 G + .114 B. Images (B, 3, H, W) in [-1, 1], result likewise.
    """
    out = to_levels(restored) / 255
    ratio = _mean_gray(to_levels(gt) / 255) / _mean_gray(out).clamp(min=1e-6)
    return ((out * ratio).clamp(0, 1) * 255).floor() / 127.5 - 1


def _mean_gray(image: Tensor) -> Tensor:
    return full_range_luma(image).mean((2, 3), keepdim=True)


def psnr_rgb(restored: Tensor, gt: Tensor) -> Tensor:
    """PSNR over R, G and B of 8-bit images, dB, (B,)."""
    mse = (to_levels(restored).double() - to_levels(gt).double()).square().mean((1, 2, 3))
    return (10 * torch.log10(255**2 / mse)).clamp(max=PSNR_CAP).float()


def ssim_uniform(restored: Tensor, gt: Tensor) -> Tensor:
    """SSIM of 8-bit images as scikit-image computes it by default: 7x7 mean window, sample covariance, mean of R, G and B, (B,).

    Raises:
        ValueError: a side is shorter than 7 pixels.
    """
    if min(restored.shape[2:]) < 7:
        raise ValueError(
            f"this SSIM needs sides of at least 7 pixels, got {tuple(restored.shape[2:])}"
        )
    x, y = to_levels(restored).double(), to_levels(gt).double()
    c1, c2, unbiased = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49 / 48

    def mean(v: Tensor) -> Tensor:
        return F.avg_pool2d(v, 7, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = (
        unbiased * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y))
    )
    ssim = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ssim.mean((1, 2, 3)).float()


_UNIFORM = "RGB channel mean, 8-bit rounded, uniform 7x7 window, sample covariance, valid region (scikit-image default)"
_GT_MEAN = "GT-mean (mean gray scaled to the ground truth's, 8-bit truncated), then "


def after_gt_mean(metric: Metric, name: str, *, bgr: bool = False) -> Measure:
    """A metric of the engine after GT-mean.

    Args:
        name: of the result. bgr: show the metric blue, green, red in place of red, green, blue, as GSAD's code shows LPIPS.
    """

    def function(restored: Tensor, gt: Tensor) -> Tensor:
        restored = gt_mean(restored, gt)
        return metric(restored.flip(1), gt.flip(1)) if bgr else metric(restored, gt)

    protocol = _GT_MEAN + (metric.protocol.replace("RGB", "BGR") if bgr else metric.protocol)
    return Measure(name, protocol, function, metric.higher_is_better, perceptual=metric.perceptual)


def psnr_gtmean() -> Measure:
    """GSAD's PSNR."""
    protocol = _GT_MEAN + "RGB, peak 255, no border crop, capped at 100 dB"
    return Measure(
        "psnr-gtmean", protocol, lambda restored, gt: psnr_rgb(gt_mean(restored, gt), gt)
    )


def ssim_uniform_raw() -> Measure:
    """The SSIM of GSAD's code, without its GT-mean."""
    return Measure("ssim-uniform", _UNIFORM, ssim_uniform)


def ssim_uniform_gtmean() -> Measure:
    """GSAD's SSIM."""
    return Measure(
        "ssim-uniform-gtmean",
        _GT_MEAN + _UNIFORM,
        lambda restored, gt: ssim_uniform(gt_mean(restored, gt), gt),
    )
