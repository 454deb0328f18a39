"""Restore at a few tradeoffs and interpolate between them, pixel by pixel.

With nodes ``t_i`` equally spaced from 0 to 1 and ``x_i`` the images there, it is Lagrange's:

    x(t) = sum_i x_i prod_{j != i} (t - t_j) / (t_i - t_j)

How far that is from restoring at t is measured in ``docs/how-to/using.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

MIN_NODES = 2
MAX_NODES = 5
"""With more, polynomials through equally spaced points gain nothing."""

Weights = list[float]
"""A weight for each restored image; most are 0 where nothing is interpolated."""


def plan_interpolation(
    tradeoffs: Sequence[float], nodes: int | None
) -> tuple[list[float], list[Weights]]:
    """Choose the tradeoffs to restore at, and how their images are mixed.

    Args:
        tradeoffs: What is wanted.
        nodes: Restore at no more than this many; None: at all of ``tradeoffs``.

    Returns:
        The tradeoffs to restore at, and for each wanted one the weights of the images there.
    """
    if nodes is None or len(tradeoffs) <= nodes:
        return list(tradeoffs), [_pick(i, len(tradeoffs)) for i in range(len(tradeoffs))]
    restored = [i / (nodes - 1) for i in range(nodes)]
    return restored, [_lagrange_weights(restored, t) for t in tradeoffs]


def mix(images: Tensor, weights: Weights) -> Tensor:
    """Sum images (K, C, h, w) by K weights to (1, C, h, w); one image alone is not copied."""
    weighted = [(w, x) for w, x in zip(weights, images.split(1), strict=True) if w]
    (first, image), *others = weighted
    if first == 1 and not others:
        return image
    total = first * image
    for weight, x in others:
        total.add_(x, alpha=weight)
    return total


def _pick(index: int, count: int) -> Weights:
    return [float(i == index) for i in range(count)]


def _lagrange_weights(nodes: Sequence[float], t: float) -> Weights:
    """Evaluate at t the basis polynomial of each node, which is 1 there and 0 at the others."""
    return [math.prod((t - b) / (a - b) for b in nodes if b != a) for a in nodes]
