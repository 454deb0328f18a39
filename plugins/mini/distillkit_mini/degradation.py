"""What a small camera does to a photograph: blur, fewer pixels, noise, JPEG."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import DistillkitError, filter2d, jpeg
from distillkit_mini.models import SCALE

Range = tuple[float, float]
JPEG_UNIT = 16
"""Pixels. A last block that is not full is filled with its border, as encoders do, and not with black."""


class Camera:
    """Gaussian blur, 4x down (area or antialiased cubic, at even odds), Gaussian noise, JPEG, 8 bits. Carries no gradient.

    Args:
        blur: range of the blur's standard deviation, pixels of the clean image. noise: of the noise's, gray levels out of 255.
        quality: of the JPEG quality. Each image draws its own values, uniformly.
    """

    scale = SCALE

    def __init__(
        self, blur: Range = (0.3, 2.0), noise: Range = (0.0, 8.0), quality: Range = (50.0, 95.0)
    ) -> None:
        self.blur, self.noise, self.quality = blur, noise, quality

    @torch.no_grad()
    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Clean images (B, 3, H, W) in [-1, 1] -> (B, 3, H / 4, W / 4) in [-1, 1].

        Raises:
            DistillkitError: H or W is no multiple of 4.
        """
        batch, _, height, width = gt.shape
        if height % SCALE or width % SCALE:
            raise DistillkitError(
                f"the camera degradation takes sides that are multiples of {SCALE}, not {height}x{width}"
            )
        draws = torch.rand(4, batch, generator=generator)
        white = torch.randn(batch, 3, height // SCALE, width // SCALE, generator=generator).to(gt)
        blur, level, quality, area = (
            d.to(gt)
            for d in (
                _between(draws[0], self.blur),
                _between(draws[1], self.noise),
                _between(draws[2], self.quality),
                draws[3],
            )
        )
        image = filter2d((gt + 1) / 2, gaussian_kernel(blur, self.blur[1]))
        image = torch.where(_column(area < 0.5), F.avg_pool2d(image, SCALE), _shrink_cubic(image))
        image = (image + _column(level) / 255 * white).clamp(0, 1)
        height, width = image.shape[2:]
        framed = F.pad(image, (0, -width % JPEG_UNIT, 0, -height % JPEG_UNIT), mode="replicate")
        return (jpeg(framed, quality)[..., :height, :width] * 255).round() / 127.5 - 1


def gaussian_kernel(sigma: Tensor, widest: float) -> Tensor:
    """Kernels (B, k, k) of standard deviations ``sigma`` (B,), cut at three times ``widest`` or later."""
    radius = int(3 * widest) + 1
    x = torch.arange(-radius, radius + 1).to(sigma)
    profile = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
    profile = profile / profile.sum(1, keepdim=True)
    return profile[:, :, None] * profile[:, None, :]


def _shrink_cubic(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=1 / SCALE, mode="bicubic", antialias=True)


def _between(uniform: Tensor, ends: Range) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
