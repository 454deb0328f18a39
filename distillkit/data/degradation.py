"""The interface of degradations, which make low-quality images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Degradation(Protocol):
    """A pure function of images and a generator.

    Batched, on the device of the images.
    """

    scale: int
    """Size of the clean image divided by the size of the degraded one."""

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade images, each with draws of its own.

        Args:
            gt: (B, 3, H, W) in [-1, 1].
            generator: Lives on the CPU.

        Returns:
            (B, 3, H / scale, W / scale) in [-1, 1], rounded to 8 bits.
        """
        ...
