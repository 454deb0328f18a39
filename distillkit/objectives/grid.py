"""The periodic pattern that a network's upsampling leaves in its images, as a number and a loss.

A pixel shuffle by p writes the p x p phases of its image from different channels. Where they differ
in sharpness, the eye sees a grid. With e_ij the mean absolute Laplacian of the pixels at phase
(i, j), the grid is ``g = std(e) / mean(e)``; photographs have about .05.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def grid_strength(image: Tensor, period: int) -> Tensor:
    """Measure the grid g of a batch.

    Args:
        image: (B, 3, H, W), in any range; H and W at least a period and two pixels.
        period: of the grid, in pixels.

    Returns:
        A scalar at least 0; 0 where all phases are equally sharp.
    """
    energy = _phase_energy(image, period)
    return energy.std(unbiased=False) / energy.mean().clamp(min=1e-6)


def grid_loss(image: Tensor, period: int) -> Tensor:
    """Compute ``g^2``, with a gradient through the spread of e alone.

    Noise everywhere raises the mean and so lowers g, too; a mean without gradient rewards no noise.
    """
    energy = _phase_energy(image, period)
    mean = energy.detach().mean().clamp(min=1e-6)
    return energy.var(unbiased=False) / mean.square()


def _phase_energy(image: Tensor, period: int) -> Tensor:
    """Average the absolute Laplacian of the gray image over all pixels of a phase, (p, p)."""
    gray = image.mean(1, keepdim=True)
    center = gray[..., 1:-1, 1:-1]
    rows = gray[..., :-2, 1:-1] + gray[..., 2:, 1:-1]
    columns = gray[..., 1:-1, :-2] + gray[..., 1:-1, 2:]
    laplacian = (4 * center - rows - columns).abs()
    height, width = (side // period * period for side in laplacian.shape[-2:])
    whole = laplacian[..., :height, :width]
    blocks = F.pixel_unshuffle(whole, period)
    return blocks.mean((0, 2, 3)).view(period, period)
