"""What a small camera does to a photograph: blur, fewer pixels, noise, JPEG."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import DistillkitError, filter2d, jpeg
from distillkit_mini.models import SCALE

Range = tuple[float, float]
JPEG_UNIT = 16
"""Pixels. An incomplete last block is filled with its border, as encoders do, not with black."""


class Camera:
    """Gaussian blur, 4x down (area or antialiased cubic), Gaussian noise, JPEG, 8 bits.

    Both ways down are equally likely. Each image draws its own values, uniformly. No gradient is
    computed.

    Args:
        blur: Range of the blur's standard deviation, pixels of the clean image.
        noise: Range of the noise's standard deviation, gray levels out of 255.
        quality: Range of the JPEG quality.
    """

    scale = SCALE

    def __init__(
        self,
        blur: Range = (0.3, 2.0),
        noise: Range = (0.0, 8.0),
        quality: Range = (50.0, 95.0),
    ) -> None:
        self.blur = blur
        self.noise = noise
        self.quality = quality

    @torch.no_grad()
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade clean images.

        Args:
            gt: (B, 3, H, W) in [-1, 1].
            generator: A CPU generator.

        Returns:
            (B, 3, H / 4, W / 4) in [-1, 1].

        Raises:
            DistillkitError: H or W is not a multiple of 4.
        """
        batch, _, height, width = gt.shape
        if height % SCALE or width % SCALE:
            raise DistillkitError(
                f"the camera degradation takes sides that are multiples of {SCALE}, "
                f"not {height}x{width}"
            )
        size = (height // SCALE, width // SCALE)
        # Everything is drawn on the CPU, so that it is the same on every device.
        draws = torch.rand(4, batch, generator=generator)
        noise = torch.randn(batch, 3, *size, generator=generator).to(gt)
        sigma = _scale_to(self.blur, draws[0]).to(gt)
        level = _scale_to(self.noise, draws[1]).to(gt)
        quality = _scale_to(self.quality, draws[2]).to(gt)
        is_area = draws[3].to(gt) < 0.5

        image = filter2d((gt + 1) / 2, gaussian_kernel(sigma, self.blur[1]))
        image = torch.where(_per_image(is_area), F.avg_pool2d(image, SCALE), _shrink_cubic(image))
        image = (image + _per_image(level) / 255 * noise).clamp(0, 1)
        image = _compress(image, quality)
        return (image * 255).round() / 127.5 - 1


def gaussian_kernel(sigma: Tensor, widest: float) -> Tensor:
    """Compute Gaussian kernels.

    Args:
        sigma: Standard deviations (B,), pixels.
        widest: The largest one that may occur: kernels are cut at three times this, or later.

    Returns:
        (B, k, k), each with unit sum.
    """
    radius = int(3 * widest) + 1
    x = torch.arange(-radius, radius + 1).to(sigma)
    profile = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
    profile = profile / profile.sum(1, keepdim=True)
    return profile[:, :, None] * profile[:, None, :]


def _shrink_cubic(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=1 / SCALE, mode="bicubic", antialias=True)


def _compress(image: Tensor, quality: Tensor) -> Tensor:
    height, width = image.shape[2:]
    border = (0, -width % JPEG_UNIT, 0, -height % JPEG_UNIT)
    padded = F.pad(image, border, mode="replicate")
    return jpeg(padded, quality)[..., :height, :width]


def _scale_to(bounds: Range, uniform: Tensor) -> Tensor:
    low, high = bounds
    return low + (high - low) * uniform


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
