"""Photographs as a camera would have taken them in far too little light."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from distillkit import jpeg
from distillkit_lowlight.options import LowLightOptions


class LowLight:
    """Under-exposure, color cast, sensor noise and JPEG; each image has draws of its own.

    Every value is drawn uniformly from its range. For an image x in [0, 1]:

    1. ``s = exposure * cast_c * x ^ gamma`` undoes the tone curve, exposes shortly, and gives the
       color channels c gains that no white balance has corrected.
    2. ``s + sqrt(shot * s + read ^ 2) n``, clipped to [0, 1]: photons are counted, so their
       variance grows with the signal, and reading the sensor adds the same everywhere (Foi et al.
       2008).
    3. The image is rounded to 8 bits, compressed, and rounded again.
    """

    scale = 1

    def __init__(self, options: LowLightOptions) -> None:
        self.options = options

    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Darken photographs.

        Args:
            gt: Photographs, shape (B, 3, H, W), in [-1, 1].
            generator: Source of all draws, on the CPU.

        Returns:
            Dark photographs of the same shape, in [-1, 1], rounded to 8 bits.
        """
        # The order of the draws is part of what a seed means.
        gamma = _draw(self.options.gamma, gt, generator)
        exposure = _draw(self.options.exposure, gt, generator)
        cast = _draw(self.options.cast, gt, generator, channels=3)
        shot = _draw(self.options.shot, gt, generator)
        read = _draw(self.options.read, gt, generator)
        quality = _draw(self.options.jpeg, gt, generator).flatten()
        noise = torch.randn(gt.shape, generator=generator).to(gt)

        light = ((gt + 1) / 2).clamp(0, 1) ** gamma
        signal = exposure * cast * light
        deviation = (shot * signal + read**2).sqrt()
        sensed = (signal + deviation * noise).clamp(0, 1)
        compressed = jpeg(_round_to_8_bits(sensed), quality)
        return _round_to_8_bits(compressed) * 2 - 1


def _draw(
    bounds: tuple[float, float],
    gt: Tensor,
    generator: Generator,
    channels: int = 1,
) -> Tensor:
    """Draw uniformly from a range for each image, shape (B, channels, 1, 1)."""
    low, high = bounds
    uniform = torch.rand(len(gt), channels, 1, 1, generator=generator)
    return (low + (high - low) * uniform).to(gt)


def _round_to_8_bits(image: Tensor) -> Tensor:
    return (image * 255).round() / 255
