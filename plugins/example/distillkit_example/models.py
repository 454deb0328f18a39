"""The teacher and the degradation. Images are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillkit import ModelInput
from distillkit_example.options import GrainOptions, SharpenOptions


class Sharpen:
    """An output teacher: it can restore an image, but has no score to ask for."""

    nfe = 1
    size_multiple = 1

    def __init__(self, options: SharpenOptions) -> None:
        self.scale = options.scale
        self.strength = options.strength

    def restore(self, inputs: ModelInput, generator: Generator | None = None) -> Tensor:
        """Enlarge images bicubically and add what a blur takes away."""
        large = F.interpolate(inputs.lq, scale_factor=self.scale, mode="bicubic")
        padded = F.pad(large, (2, 2, 2, 2), mode="replicate")
        blurred = F.avg_pool2d(padded, 5, stride=1)
        sharp = large + self.strength * (large - blurred)
        return sharp.clamp(-1, 1)


class Grain:
    """A degradation: every image of the batch draws its own amount of grain."""

    def __init__(self, options: GrainOptions) -> None:
        self.scale = options.scale
        self.strength = options.strength

    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        """Shrink images, add grain, and round to the 8 bits that a file holds."""
        small = F.avg_pool2d(gt, self.scale)
        amount = self.strength * torch.rand(len(gt), 1, 1, 1, generator=generator)
        # Drawn on the CPU, so that it is the same on every device.
        grain = amount * torch.randn(small.shape, generator=generator)
        lq = (small + grain.to(gt.device)).clamp(-1, 1)
        return (lq * 127.5 + 127.5).round() / 127.5 - 1
