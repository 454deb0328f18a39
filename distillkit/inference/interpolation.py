"""Many tradeoffs at the price of a few: restored at nodes, and in between a polynomial of the tradeoff, pixel by pixel.

With nodes ``t_i`` equally spaced from 0 to 1 and ``x_i`` the images there, Lagrange's interpolation:

    x(t) = sum_i x_i prod_{j != i} (t - t_j) / (t_i - t_j)

How far that is from restoring at t is measured in ``docs/using.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

FEWEST, MOST = 2, 5
"""Nodes; with more, polynomials through equally spaced points gain nothing."""


def plan_nodes(
    tradeoffs: Sequence[float | None], nodes: int | None
) -> tuple[list[float | None], list[list[float]]]:
    """The tradeoffs to restore at, and for each of ``tradeoffs`` the weights of the images there.

    Without ``nodes``, or where no more tradeoffs than nodes are wanted, these are ``tradeoffs`` themselves.
    """
    if nodes is None or len(tradeoffs) <= nodes:
        return list(tradeoffs), [
            [float(i == j) for j in range(len(tradeoffs))] for i in range(len(tradeoffs))
        ]
    at = [i / (nodes - 1) for i in range(nodes)]
    return [*at], [_weights(at, min(max(t or 0.0, 0.0), 1.0)) for t in tradeoffs]


def mixed(images: Tensor, weights: Sequence[float]) -> Tensor:
    """The sum of images (K, C, h, w) by K weights, (1, C, h, w); one image alone is not copied."""
    (first, image), *others = [(w, x) for w, x in zip(weights, images.split(1), strict=True) if w]
    if first == 1 and not others:
        return image
    total = first * image
    for weight, x in others:
        total.add_(x, alpha=weight)
    return total


def _weights(at: Sequence[float], t: float) -> list[float]:
    return [math.prod((t - b) / (a - b) for b in at if b != a) for a in at]
