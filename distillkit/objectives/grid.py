"""The grid that a network's upsampling leaves in its images, as two numbers and a loss.

It is also called checkerboard artifacts (Odena et al. 2016); the numbers are ours. A pixel shuffle
by p writes the p x p phases of its image from different channels, and a network can leave two kinds
of grid in them. Both are measured in the Laplacian e of the gray image:

- Some phases are sharper than others. With a_ij the mean of |e| at phase (i, j), the *spread* is
  ``g = std(a) / mean(a)``; photographs have about .05.
- The same small pattern is everywhere, and all phases are equally sharp in it. A perceptual
  distance whose trunk has a stride rewards it. With ``s = e / (|e| + tau)``, in which faint
  patterns count and edges hardly more, and s_ij the mean of s at a phase within a window of 8 x 8
  periods (fewer in a smaller image), the *pattern* is ``q = rms(s_ij - mean_ij(s_ij))``. Any
  texture has some, at every period: photographs have about as much at another one
  (:func:`pattern_strength`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

FAINT = 0.03
"""tau: a pattern of this Laplacian, of a range of 2, counts half; 4 of 255 gray levels."""

WINDOW = 8
"""Periods along a side of a window of the pattern."""


def grid_strength(image: Tensor, period: int) -> Tensor:
    """Measure the spread g of a batch.

    Args:
        image: (B, 3, H, W), in any range; H and W at least a period and two pixels.
        period: The period of the grid, in pixels.

    Returns:
        A scalar at least 0; 0 where all phases are equally sharp.
    """
    energy = _phase_energy(image, period)
    return energy.std(unbiased=False) / energy.mean().clamp(min=1e-6)


def pattern_strength(image: Tensor, period: int) -> Tensor:
    """Measure how much more pattern a batch has at a period than at the next one.

    Args:
        image: (B, 3, H, W) in [-1, 1]; H and W at least a period and three pixels.
        period: The period of the grid, in pixels.

    Returns:
        A scalar, ``q(p) / q(p + 1)``: about 1 in photographs.
    """
    other = _mean_pattern(image, period + 1).clamp(min=1e-12)
    return (_mean_pattern(image, period) / other).sqrt()


def grid_loss(image: Tensor, period: int) -> Tensor:
    """Compute ``g^2 + q^2``, with a gradient through the spread of a alone in g.

    Noise everywhere raises the mean and so lowers g, too; a mean without gradient rewards no noise.

    Args:
        image: (B, 3, H, W) in [-1, 1]; H and W at least a period and two pixels.
        period: The period of the grid, in pixels: the factor of the last upsampling.
    """
    energy = _phase_energy(image, period)
    mean = energy.detach().mean().clamp(min=1e-6)
    return energy.var(unbiased=False) / mean.square() + _mean_pattern(image, period)


def _phase_energy(image: Tensor, period: int) -> Tensor:
    """Average the absolute Laplacian over all pixels of a phase, (p, p)."""
    phases = _split_into_phases(_laplacian(image).abs(), period)
    return phases.mean((0, 2, 3)).view(period, period)


def _mean_pattern(image: Tensor, period: int) -> Tensor:
    """Compute q^2."""
    laplacian = _laplacian(image)
    phases = _split_into_phases(laplacian / (laplacian.abs() + FAINT), period)
    window = min(WINDOW, *phases.shape[-2:])
    pattern = F.avg_pool2d(phases, window)
    return (pattern - pattern.mean(1, keepdim=True)).square().mean()


def _laplacian(image: Tensor) -> Tensor:
    """Return the Laplacian of the gray image, without its border: (B, 1, H - 2, W - 2)."""
    gray = image.mean(1, keepdim=True)
    rows = gray[..., :-2, 1:-1] + gray[..., 2:, 1:-1]
    columns = gray[..., 1:-1, :-2] + gray[..., 1:-1, 2:]
    return 4 * gray[..., 1:-1, 1:-1] - rows - columns


def _split_into_phases(values: Tensor, period: int) -> Tensor:
    """Give each phase a channel: (B, 1, H, W) -> (B, p p, H / p, W / p), rounded down."""
    height, width = (side // period * period for side in values.shape[-2:])
    return F.pixel_unshuffle(values[..., :height, :width], period)
