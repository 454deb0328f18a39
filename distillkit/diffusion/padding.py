"""Padding inputs to the sizes that a network takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from distillkit.diffusion.model import ModelInput


def restore_padded(
    restore: Callable[[ModelInput], Tensor],
    inputs: ModelInput,
    scale: int,
    size_multiple: int,
) -> Tensor:
    """Restore images of any size with a network that takes multiples of ``size_multiple``.

    Sides are padded at the bottom and the right by reflection; images too small to be reflected
    repeat their last row or column.

    Args:
        restore: Restores images whose sides are multiples of ``size_multiple``.
        inputs: Images (B, 3, h, w) of any size.
        scale: Output size divided by input size.
        size_multiple: What the sides are padded to.

    Returns:
        The restored images without the padding, (..., scale h, scale w).
    """
    height, width = inputs.lq.shape[-2:]
    bottom = -height % size_multiple
    right = -width % size_multiple
    if bottom or right:
        mode = "reflect" if bottom < height and right < width else "replicate"
        inputs = replace(inputs, lq=F.pad(inputs.lq, (0, right, 0, bottom), mode=mode))
    return restore(inputs)[..., : height * scale, : width * scale]
