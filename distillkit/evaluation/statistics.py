"""Standard errors and confidence intervals of means over images, when several crops may come from one photo."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = tuple[float, float]
LEVEL = 0.95
RESAMPLES = 2000
_NORMAL = NormalDist()


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


def confidence_interval(values: Values, groups: Sequence[str]) -> Interval | None:
    """The 95 % bootstrap interval of the mean of ``values`` (n,), whose independent units are ``groups``.

    Whole photos are drawn again, with all of their crops, 2000 times, by the same draws at every call. The quantiles are corrected
    for bias and skewness (BCa; Efron 1987), the acceleration comes from leaving out one photo at a time. With fewer than about ten
    photos the interval is too narrow. One photo says nothing of others: the result is None.
    """
    labels, index = np.unique(np.asarray(groups), return_inverse=True)
    count = len(labels)
    if count < 2:
        return None
    sums, sizes = (
        np.bincount(index, weights=values, minlength=count),
        np.bincount(index, minlength=count),
    )
    draws = _draws(count)
    means = draws @ sums / (draws @ sizes)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    pull = without.mean() - without
    spread = float(np.square(pull).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread else 0.0
    below = float((means < values.mean()).mean() + (means == values.mean()).mean() / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    shifted = [bias + _NORMAL.inv_cdf(p) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = np.quantile(
        means, [_NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted]
    )
    return float(low), float(high)


@functools.lru_cache(maxsize=4)
def _draws(count: int) -> Values:
    """(RESAMPLES, count): how often each of ``count`` photos is in each resample of as many."""
    return (
        np.random.default_rng(0)
        .multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        .astype(np.float64)
    )
