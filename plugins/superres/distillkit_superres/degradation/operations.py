"""Noise, sharpening and resizing of the Real-ESRGAN degradation.

Images are (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillkit import filter2d
from distillkit_superres.degradation.draws import Noise, ResizeMode
from distillkit_superres.degradation.kernels import gaussian_kernel

LUMA_WEIGHTS = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the gray image that gray Poisson noise follows."""


def resize(
    image: Tensor,
    target: tuple[int, int] | float,
    mode: ResizeMode,
) -> Tensor:
    """Resize images without antialiasing; bicubic may leave [0, 1].

    Args:
        image: Shape (B, C, H, W).
        target: A size (h, w), or a factor.
        mode: The interpolation.
    """
    align_corners = None if mode == "area" else False
    if isinstance(target, tuple):
        return F.interpolate(image, size=target, mode=mode, align_corners=align_corners)
    return F.interpolate(image, scale_factor=target, mode=mode, align_corners=align_corners)


def add_noise(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    """Add noise to an image and clamp it to [0, 1].

    Gaussian noise is ``strength / 255`` times standard normal values. Poisson noise is
    ``strength (Poisson(L u) / L - u)`` with u the image at 8 bits, and L the number of its distinct
    values, rounded up to a power of two. Gray noise is one map for all channels; for Poisson noise
    that of the image's luma.

    Args:
        image: Shape (1, 3, H, W).
        noise: Kind and strength.
        generator: Source of the noise, on the device of ``image``.
    """
    if noise.kind == "gaussian":
        added = _gaussian_noise(image, noise, generator)
    else:
        added = _poisson_noise(image, noise, generator)
    return (image + added).clamp(0, 1)


def _gaussian_noise(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    channels = 1 if noise.gray else image.shape[1]
    shape = (1, channels, *image.shape[2:])
    normal = torch.randn(shape, generator=generator, device=image.device)
    return noise.strength / 255 * normal


def _poisson_noise(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    base = image
    if noise.gray:
        weights = image.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
        base = (image * weights).sum(1, keepdim=True)
    base = (base * 255).round().clamp(0, 255) / 255
    distinct = base.unique().numel()
    values = 2 ** math.ceil(math.log2(distinct))
    counted = torch.poisson(base * values, generator=generator) / values
    return noise.strength * (counted - base)


def sharpen(
    image: Tensor,
    radius: int = 50,
    weight: float = 0.5,
    threshold: float = 10,
) -> Tensor:
    """Sharpen by an unsharp mask that spares flat regions.

    Real-ESRGAN sharpens its training images so. With ``r = u - G u``, where ``255 |r|`` exceeds the
    threshold the image becomes ``clip(u + weight r)``, blended by the blurred mask. G is a Gaussian
    whose standard deviation OpenCV would choose, ``0.3 ((k - 1) / 2 - 1) + 0.8``.

    Args:
        image: Shape (B, 3, H, W), in [0, 1], sides above ``radius / 2``.
        radius: Side k of the Gaussian in pixels, made odd.
        weight: How much of the residual is added.
        threshold: Smallest residual that counts, in units of 1/255.
    """
    size = radius + 1 - radius % 2
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    kernel = gaussian_kernel("iso", size, sigma, sigma, theta=0.0, beta=1.0)
    residual = image - filter2d(image, kernel)
    is_detail = residual.abs() * 255 > threshold
    mask = filter2d(is_detail.to(image), kernel)
    sharpened = (image + weight * residual).clamp(0, 1)
    return mask * sharpened + (1 - mask) * image
