"""Noise, sharpening and resizing of the Real-ESRGAN degradation. Images are (B, C, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillkit import filter2d
from distillkit_superres.degradation.draws import Mode, Noise
from distillkit_superres.degradation.kernels import gaussian_kernel

_LUMA = (0.2989, 0.587, 0.114)


def resize(image: Tensor, to: tuple[int, int] | float, mode: Mode) -> Tensor:
    """``image`` at a size (h, w), or multiplied by a factor, without antialiasing; bicubic may leave [0, 1]."""
    align_corners = None if mode == "area" else False
    if isinstance(to, tuple):
        return F.interpolate(image, size=to, mode=mode, align_corners=align_corners)
    return F.interpolate(image, scale_factor=to, mode=mode, align_corners=align_corners)


def add_noise(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    """``image`` (1, 3, H, W) with noise, clamped to [0, 1]. ``generator`` lives on the device of ``image``.

    Gaussian: ``strength / 255`` times standard normal values. Poisson: ``strength (Poisson(L u) / L - u)`` with u the image at 8
    bits and L the number of its distinct levels, rounded up to a power of two. Gray noise is one map for all channels, for Poisson
    that of the image's luma.
    """
    if noise.kind == "gaussian":
        channels = 1 if noise.gray else image.shape[1]
        normal = torch.randn(
            (1, channels, *image.shape[2:]), generator=generator, device=image.device
        )
        return (image + noise.strength / 255 * normal).clamp(0, 1)
    base = (
        (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if noise.gray
        else image
    )
    base = (base * 255).round().clamp(0, 255) / 255
    levels = 2 ** math.ceil(math.log2(base.unique().numel()))
    return (
        image + noise.strength * (torch.poisson(base * levels, generator=generator) / levels - base)
    ).clamp(0, 1)


def sharpened(
    image: Tensor, radius: int = 50, weight: float = 0.5, threshold: float = 10
) -> Tensor:
    """Unsharp masking that spares flat regions, as Real-ESRGAN sharpens its training images.

    ``r = u - G u``; where ``255 |r|`` exceeds ``threshold`` the image becomes ``clip(u + weight r)``, blended by the blurred mask.
    G is a Gaussian of ``radius`` pixels (made odd) whose standard deviation OpenCV would choose, ``0.3 ((k - 1) / 2 - 1) + 0.8``.
    ``image``: (B, 3, H, W) in [0, 1], sides above ``radius / 2``.
    """
    size = radius + 1 - radius % 2
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    kernel = gaussian_kernel("iso", size, sigma, sigma, 0.0, 1.0)
    residual = image - filter2d(image, kernel)
    mask = filter2d((residual.abs() * 255 > threshold).to(image), kernel)
    return mask * (image + weight * residual).clamp(0, 1) + (1 - mask) * image
