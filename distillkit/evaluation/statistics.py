"""Standard errors of means over images, when several crops may come from one photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def photo_of(item: str) -> str:
    """``"photo#crop"`` -> ``"photo"``; a name without ``#`` is a photo of its own."""
    return item.rpartition("#")[0] or item


def standard_error(values: Values, groups: Sequence[str]) -> float | None:
    """Standard error of the mean of ``values`` (n,) whose independent units are ``groups``: equal labels belong together.

    Crops of one photo share its content, so their errors are correlated and counting them as independent makes the error too small.
    The cluster-robust estimate ``G/(G-1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2`` (Liang and Zeger 1986) allows for that; with
    one crop per photo it is the usual ``s / sqrt(n)``. With G photos it is itself uncertain to about ``1 / sqrt(2 (G - 1))`` of its
    value: 35 % with five. One photo says nothing of others: the result is None.
    """
    labels, index = np.unique(np.asarray(groups), return_inverse=True)
    count = len(labels)
    if count < 2:
        return None
    sums = np.bincount(index, weights=values - values.mean(), minlength=count)
    return float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values))
