"""Metrics, each with the protocol that its numbers carry.

Images are (B, 3, H, W) in [-1, 1]. Nothing is cropped at the border. PSNR and SSIM see what a saved 8-bit file would hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.luma import studio_range_luma
from distillkit.files.images import to_uint8

PSNR_CAP = 100.0
"""dB. The PSNR of two equal images is infinite; values are capped here so that means and differences stay finite."""


@runtime_checkable
class Metric(Protocol):
    """How close ``restored`` (B, 3, H, W) is to ``gt`` (B, 3, H, W) or (1, 3, H, W), both in [-1, 1]; result (B,).

    A metric without reference does not look at ``gt``.
    Whether a metric was trained against or held out is not its own property: a report is told so (``trained=...``).
    """

    name: str
    protocol: str
    """Everything needed to compare a number with another: color space, rounding, border, network."""
    higher_is_better: bool
    differentiable: bool
    """Gradient flows to ``restored``, so it can serve as a loss."""
    perceptual: bool
    """Judges appearance; False for distortion measures such as PSNR and SSIM."""

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor: ...


@dataclass
class FullReference:
    """A :class:`Metric` around a function ``(restored, gt) -> (B,)``."""

    name: str
    protocol: str
    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    differentiable: bool
    perceptual: bool

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        batch, *image = restored.shape
        if len(image) != 3 or image[0] != 3 or list(gt.shape) not in ([batch, *image], [1, *image]):
            raise ValueError(
                f"{self.name}: expected two (B, 3, H, W), got {tuple(restored.shape)} and {tuple(gt.shape)}"
            )
        return self.function(restored, gt)


@dataclass
class NoReference:
    """A :class:`Metric` around a function ``restored -> (B,)`` that judges an image by itself."""

    name: str
    protocol: str
    function: Callable[[Tensor], Tensor]
    higher_is_better: bool
    differentiable: bool = False
    perceptual: bool = True

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        if restored.dim() != 4 or restored.shape[1] != 3:
            raise ValueError(f"{self.name}: expected (B, 3, H, W), got {tuple(restored.shape)}")
        return self.function(restored)


@runtime_checkable
class SetMetric(Protocol):
    """A metric of all images of a method together: one number, without a value for each image and so without a standard error."""

    name: str
    protocol: str
    higher_is_better: bool
    differentiable: bool
    """False: nothing is trained against a set."""
    perceptual: bool

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, D): all that is kept of each."""
        ...

    def distance(self, restored: Tensor, gt: Tensor) -> float:
        """Of the features (N, D) of all restored images and those (N, D) of the ground truth."""
        ...


def from_uint8(image: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]; the inverse of :func:`to_uint8`."""
    return image.float() / 127.5 - 1


def psnr() -> Metric:
    """PSNR over the three color channels."""
    return _distortion(
        "psnr", "RGB, 8-bit rounded, peak 255, no border crop, capped at 100 dB", _psnr_rgb
    )


def psnr_y() -> Metric:
    """PSNR of the luma, as published tables of image restoration give it."""
    return _distortion(
        "psnr-y",
        "Y of BT.601 (16-235, not rounded) of 8-bit RGB, peak 255, no border crop, capped at 100 dB",
        _psnr_luma,
    )


def ssim() -> Metric:
    """SSIM of Wang et al. 2004, mean of the three color channels."""
    return _distortion(
        "ssim",
        "RGB channel mean, 8-bit rounded, Gaussian 11x11 sigma 1.5, valid region, K .01/.03, float64",
        _ssim_rgb,
    )


def ssim_y() -> Metric:
    """SSIM of the rounded luma, contrast-structure term clipped at 0, as published tables of image restoration give it."""
    protocol = "Y of BT.601 (16-235, rounded) of 8-bit RGB, Gaussian 11x11 sigma 1.5, valid region, K .01/.03, cs >= 0, float64"
    return _distortion("ssim-y", protocol, _ssim_luma)


def _distortion(name: str, protocol: str, function: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    return FullReference(
        name, protocol, function, higher_is_better=True, differentiable=False, perceptual=False
    )


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    mse = (a - b).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(255**2 / mse)).clamp(max=PSNR_CAP).float()


def _psnr_rgb(restored: Tensor, gt: Tensor) -> Tensor:
    return _psnr(to_uint8(restored).double(), to_uint8(gt).double())


def _luma(image: Tensor) -> Tensor:
    """Compute the luma of an image in [-1, 1], rounded to 8 bits first; float64."""
    return studio_range_luma(to_uint8(image).double())


def _psnr_luma(restored: Tensor, gt: Tensor) -> Tensor:
    return _psnr(_luma(restored), _luma(gt))


def _ssim_rgb(restored: Tensor, gt: Tensor) -> Tensor:
    luminance, contrast_structure = _ssim_maps(to_uint8(restored).double(), to_uint8(gt).double())
    return (luminance * contrast_structure).mean(dim=(1, 2, 3)).float()


def _ssim_luma(restored: Tensor, gt: Tensor) -> Tensor:
    luminance, contrast_structure = _ssim_maps(_luma(restored).round(), _luma(gt).round())
    return (luminance * contrast_structure.clamp(min=0)).mean(dim=(1, 2, 3)).float()


def _ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance and contrast-structure terms at every position whose 11x11 window lies inside the image."""
    if min(a.shape[2:]) < 11:
        raise ValueError(f"SSIM needs sides of at least 11 pixels, got {tuple(a.shape[2:])}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    kernel = torch.exp(-(x**2) / (2 * 1.5**2))
    kernel = kernel / kernel.sum()

    def blur(v: Tensor) -> Tensor:
        flat = v.flatten(0, 1).unsqueeze(1)
        return (
            F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
            .unflatten(0, v.shape[:2])
            .squeeze(2)
        )

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (var_a + var_b + c2)
