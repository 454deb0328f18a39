"""Standard errors and confidence intervals of means over images.

Several crops may come from one photo. They are not independent, so photos are counted, not crops.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = tuple[float, float]
LEVEL = 0.95
RESAMPLES = 2000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A mean, or the mean of paired differences, and how certain it is."""

    mean: float
    sem: float | None
    """Its standard error; None with fewer than two photos."""
    interval: Interval | None = None
    """Its 95 % interval; None with fewer than two photos."""
    photos: int = 1
    """Number of photos that it was estimated from."""


def estimate_mean(values: Values, photos: Sequence[str]) -> Estimate:
    """Estimate a mean over crops, clustered by photo.

    Args:
        values: One value per crop, (n,), or a single value for all of them, ().
        photos: The photo that each crop was cut from.
    """
    if not values.ndim:
        return Estimate(float(values), None)
    sem = standard_error(values, photos)
    interval = confidence_interval(values, photos)
    return Estimate(float(values.mean()), sem, interval, len(set(photos)))


def photo_of(item: str) -> str:
    """Return ``"photo"`` for ``"photo#crop"``; a name without ``#`` is a photo of its own."""
    return item.rpartition("#")[0] or item


def standard_error(values: Values, photos: Sequence[str]) -> float | None:
    """Estimate the standard error of a mean over crops, clustered by photo.

    Crops of one photo share its content, so their errors are correlated, and counting them as
    independent makes the error too small. The cluster-robust estimate
    ``G/(G-1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2`` (Liang and Zeger 1986) allows for that;
    with one crop per photo it is the usual ``s / sqrt(n)``. With G photos the error itself is
    uncertain to about ``1 / sqrt(2 (G - 1))`` of its value: 35 % with five photos.

    Args:
        values: One value per crop, (n,).
        photos: The photo that each crop was cut from.

    Returns:
        The error, or None for a single photo, which says nothing about others.
    """
    index, count = _number_photos(photos)
    if count < 2:
        return None
    deviations = values - values.mean()
    sums = np.bincount(index, weights=deviations, minlength=count)
    variance = count / (count - 1) * np.square(sums).sum()
    return float(np.sqrt(variance) / len(values))


def confidence_interval(values: Values, photos: Sequence[str]) -> Interval | None:
    """Estimate the 95 % bootstrap interval of a mean over crops, clustered by photo.

    Photos are resampled with all of their crops, 2000 times, with the same draws at every call.
    The quantiles are corrected for bias and skewness (BCa; Efron 1987, eq. 2.3): in place of the
    tail ``p`` of the resampled means stands the quantile ``Phi(z0 + z / (1 - a z))`` with
    ``z = z0 + Phi^-1(p)``, the bias z0 and the acceleration a. With fewer than about ten photos
    the interval is too narrow.

    ``scipy.stats.bootstrap`` computes the same interval from the same draws, except where a
    resample contains every photo once and so ties with the mean: then rounding decides.

    Args:
        values: One value per crop, (n,).
        photos: The photo that each crop was cut from.

    Returns:
        The interval, or None for a single photo, which says nothing about others.
    """
    index, count = _number_photos(photos)
    if count < 2:
        return None
    # A resample's mean is a ratio of sums, because photos may have different numbers of crops.
    sums = np.bincount(index, weights=values, minlength=count)
    sizes = np.bincount(index, minlength=count)
    draws = _draws(count)
    means = draws @ sums / (draws @ sizes)

    z0 = _bias(means, values.mean())
    acceleration = _acceleration(sums, sizes)
    quantiles = []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = z0 + _NORMAL.inv_cdf(tail)
        corrected = z0 + z / (1 - acceleration * z)
        quantiles.append(_NORMAL.cdf(corrected))
    low, high = np.quantile(means, quantiles)
    return float(low), float(high)


def _number_photos(photos: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Return the number of each crop's photo, and how many photos there are."""
    names, index = np.unique(np.asarray(photos), return_inverse=True)
    return index, len(names)


@functools.lru_cache(maxsize=4)
def _draws(count: int) -> Values:
    """Draw how often each photo is in each resample, (RESAMPLES, count)."""
    generator = np.random.default_rng(0)  # the same draws always, so that intervals can be compared
    probabilities = np.full(count, 1 / count)
    return generator.multinomial(count, probabilities, size=RESAMPLES).astype(np.float64)


def _bias(means: Values, observed: np.float64) -> float:
    """Compute z0: the normal quantile of the share of resampled means below the observed one.

    Ties count half: with few photos many resamples give the observed mean exactly.
    """
    below = (means < observed).mean()
    ties = (means == observed).mean()
    share = float(below + ties / 2)
    # The quantile of 0 or 1 would be infinite.
    smallest = 1 / RESAMPLES
    largest = 1 - 1 / RESAMPLES
    return _NORMAL.inv_cdf(min(max(share, smallest), largest))


def _acceleration(sums: NDArray[Any], sizes: NDArray[Any]) -> float:
    """Compute a: a sixth of the skewness of the jackknife, the means that leave out one photo each.

    ``sum d_i^3 / (6 (sum d_i^2)^(3/2))`` with ``d_i = mean_j(m_j) - m_i``, m_i the mean without
    photo i (Efron and Tibshirani 1993, eq. 14.15).
    """
    other_sums = sums.sum() - sums
    other_sizes = sizes.sum() - sizes
    without = other_sums / other_sizes
    influence = without.mean() - without
    second_moment = float(np.square(influence).sum())
    third_moment = float((influence**3).sum())
    if not second_moment:
        return 0.0
    return third_moment / (6 * second_moment**1.5)
