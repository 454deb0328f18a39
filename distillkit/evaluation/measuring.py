"""Measure images with metrics that may fail: a failure costs its value and nothing else."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distillkit.errors import DistillkitError, first_line
from distillkit.files.images import to_uint8
from distillkit.metrics.base import FullReference, Metric, SetMetric, from_uint8

PIXELS_PER_BATCH = 2**16
"""Images of one size are measured in batches of at most this many pixels. It bounds memory, and
features of more do not stay in a CPU's caches: ST-LPIPS-VGG took 1.2 times as long with 2**18."""


class Measured(NamedTuple):
    """The values of one metric for several images."""

    values: dict[str, float]
    """By label; NaN where the metric failed."""
    reasons: dict[str, str]
    """Why it failed, by label."""


@torch.no_grad()
def measure(metric: Metric, images: Mapping[str, Tensor], gt: Tensor) -> Measured:
    """Measure the images of one item.

    Args:
        metric: What to measure.
        images: uint8 images (1, 3, H, W) by label.
        gt: The ground truth (1, 3, H, W) in [-1, 1]; rounded to 8 bits, as the images are.
    """
    judge = _judge_against(metric, from_uint8(to_uint8(gt)))
    height, width = gt.shape[2:]
    batch_size = max(1, PIXELS_PER_BATCH // (height * width))
    measured = Measured({}, {})
    for start in range(0, len(images), batch_size):
        labels = itertools.islice(images, start, start + batch_size)
        _measure_batch(judge, {label: images[label] for label in labels}, measured)
    return measured


def _judge_against(metric: Metric, gt: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from restored images (B, 3, H, W) in [-1, 1] to their values, (B,)."""
    if isinstance(metric, FullReference):
        return metric.against(gt)
    return lambda restored: metric(restored, gt)


def _measure_batch(
    judge: Callable[[Tensor], Tensor],
    images: Mapping[str, Tensor],
    measured: Measured,
) -> None:
    """Add the values of a batch; where it fails, those of each image by itself."""
    batch = torch.cat(list(images.values()))
    try:
        values = judge(from_uint8(batch)).double().tolist()
        pairs = list(zip(images, values, strict=True))
    # A plugin's metric raises anything.
    except Exception as error:
        if len(images) > 1:
            for label, image in images.items():
                _measure_batch(judge, {label: image}, measured)
            return
        (label,) = images
        measured.values[label] = math.nan
        measured.reasons[label] = explain_failure(error)
        return
    for label, value in pairs:
        _add_value(measured, label, value)


def _add_value(measured: Measured, label: str, value: float) -> None:
    if math.isfinite(value):
        measured.values[label] = value
    else:
        measured.values[label] = math.nan
        measured.reasons[label] = f"its value is {value}"


def explain_failure(error: Exception) -> str:
    """Describe in one line the exception that a metric raised."""
    if isinstance(error, DistillkitError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


class SetFeatures:
    """What a metric of whole sets keeps of the images of every method and of the ground truth."""

    def __init__(self, metric: SetMetric) -> None:
        self.metric = metric
        self._features: dict[str, list[Tensor]] = defaultdict(list)
        self._reasons: dict[str, str] = {}

    def add(self, item: str, images: Mapping[str, Tensor]) -> None:
        """Keep the features of uint8 images (1, 3, H, W) by label; ``gt`` is the ground truth."""
        for label, image in images.items():
            try:
                features = self.metric.features(from_uint8(image))
                self._features[label].append(features.cpu())
            # As in measure().
            except Exception as error:
                self._reasons.setdefault(label, f"{item}: {explain_failure(error)}")

    def distances(self, labels: Sequence[str]) -> Measured:
        """Measure the sets of these methods."""
        measured = Measured({}, {})
        for label in labels:
            reason = self._reasons.get(label) or self._reasons.get("gt")
            if reason is not None:
                measured.values[label] = math.nan
                measured.reasons[label] = reason
                continue
            try:
                distance = float(self.metric.distance(self._set(label), self._set("gt")))
            # As in measure().
            except Exception as error:
                measured.values[label] = math.nan
                measured.reasons[label] = explain_failure(error)
            else:
                _add_value(measured, label, distance)
        return measured

    def _set(self, label: str) -> Tensor:
        return torch.cat(self._features[label])
