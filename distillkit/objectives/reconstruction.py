"""Eq. 1 of the paper: the student's image against the ground truth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""A differentiable perceptual distance, two images (B, 3, H, W) in [-1, 1] -> (B,)."""


def reconstruction(
    x_0: Tensor,
    x_gt: Tensor,
    perceptual: Distance | None,
    *,
    shift: int = 0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The unweighted terms ``l2``, ``l1`` (not in the paper) and ``perceptual`` of

    ``L_rec = lambda_l2 |x_0 - x_GT|^2 + lambda_lp l(x_0, x_GT)``

    as means over elements; nothing is clamped.

    Args:
        x_0, x_gt: the student's image and the ground truth, (B, 3, H, W) in [-1, 1].
        perceptual: the distance l, or None to leave that term out.
        shift: the distance sees a crop ``shift`` pixels smaller than the image, at a random offset drawn from ``generator``; a
            network with strides is otherwise over-fitted at one phase of its grid.
    """
    error = x_0 - x_gt
    terms = {"l2": error.square().mean(), "l1": error.abs().mean()}
    if perceptual is not None:
        a, b = _shifted_crop(x_0, x_gt, shift, generator)
        terms["perceptual"] = perceptual(a, b).mean()
    return terms


def _shifted_crop(
    a: Tensor, b: Tensor, shift: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if shift == 0:
        return a, b
    top, left = torch.randint(shift + 1, (2,), generator=generator).tolist()
    height, width = a.shape[-2] - shift, a.shape[-1] - shift
    window = (..., slice(top, top + height), slice(left, left + width))
    return a[window], b[window]
