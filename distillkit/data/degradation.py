"""What a degradation is: the thing that makes a low-quality input of a clean image."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Degradation(Protocol):
    """Batched, on the device of its input, and a pure function of its input and the generator."""

    scale: int
    """Size of the clean image divided by the size of the degraded one."""

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Clean images (B, 3, H, W) in [-1, 1] -> degraded (B, 3, H / scale, W / scale) in [-1, 1], rounded to 8 bits.

        Every image of the batch has draws of its own. ``generator`` lives on the CPU.
        """
        ...
