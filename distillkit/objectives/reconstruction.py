"""Eq. 1 of the paper: the student's image against the ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.objectives.grid import grid_loss

Distance = Callable[[Tensor, Tensor], Tensor]
"""A differentiable perceptual distance, two images (B, 3, H, W) in [-1, 1] -> (B,)."""

Losses = dict[str, Tensor]
"""Weighted loss terms by name, scalars; their sum is the loss."""


@dataclass(frozen=True)
class ReconstructionLoss:
    """``L_rec = lambda_l2 |x_0 - x_GT|^2 + lambda_lp l(x_0, x_GT)``, and two terms of ours.

    They are the L1 distance and the grid of the upsampler (:mod:`distillkit.objectives.grid`).

    Norms are means over elements, and nothing is clamped. A term of weight 0 is left out.
    """

    l2_weight: float = 1.0
    l1_weight: float = 0.0
    perceptual_weight: float = 0.0
    distance: Distance | None = None
    """The perceptual distance l; needed where its weight is above 0."""
    max_shift: int = 0
    """The distance sees a crop this many pixels smaller than the image, at a random offset.

    Without it, the student overfits the sampling grid of a distance whose network has strides.
    """
    grid_weight: float = 0.0
    grid_period: int = 4
    """The factor of the network's last upsampling."""

    def __call__(
        self, x_0: Tensor, x_gt: Tensor, generator: torch.Generator, *, l2_factor: float = 1.0
    ) -> Losses:
        """Return the weighted terms ``l2``, ``l1``, ``grid`` and ``perceptual``.

        Args:
            x_0: The student's image, (B, 3, H, W) in [-1, 1].
            x_gt: The ground truth, (B, 3, H, W) in [-1, 1].
            generator: A CPU generator for the random shift.
            l2_factor: Multiplies the weight of the L2 term.
        """
        error = x_0 - x_gt
        losses: Losses = {}
        if self.l2_weight > 0:
            losses["l2"] = self.l2_weight * l2_factor * error.square().mean()
        if self.l1_weight > 0:
            losses["l1"] = self.l1_weight * error.abs().mean()
        if self.grid_weight > 0:
            losses["grid"] = self.grid_weight * grid_loss(x_0, self.grid_period)
        if self.perceptual_weight > 0:
            assert self.distance is not None
            shifted = shifted_crops(x_0, x_gt, self.max_shift, generator)
            losses["perceptual"] = self.perceptual_weight * self.distance(*shifted).mean()
        return losses


def shifted_crops(
    a: Tensor, b: Tensor, max_shift: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut the same crop, ``max_shift`` pixels smaller and at a random offset, out of two images."""
    if max_shift == 0:
        return a, b
    top, left = torch.randint(max_shift + 1, (2,), generator=generator).tolist()
    rows = slice(top, top + a.shape[-2] - max_shift)
    columns = slice(left, left + a.shape[-1] - max_shift)
    return a[..., rows, columns], b[..., rows, columns]
