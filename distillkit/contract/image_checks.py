"""Checks of degradations, datasets, metrics and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillkit.contract.probe import (
    require,
    require_finite,
    require_image_range,
    require_positive_integer,
    require_repeatable,
    seeded,
    smooth_images,
)
from distillkit.contract.results import Check, DoesNotApply
from distillkit.data.degradation import Degradation
from distillkit.inference.faithful_map import FindMask, read_mask
from distillkit.metrics.base import Metric, SetMetric

LQ_SIZE = (24, 20)
METRIC_SIZE = (96, 80)
"""Large enough for metrics that halve images several times."""
MASK_SIZES = ((96, 130), (33, 20), (8, 200))


def _gt(degradation: Degradation, n: int, seed: int = 0) -> Tensor:
    height, width = LQ_SIZE
    return smooth_images(n, height * degradation.scale, width * degradation.scale, seed)


def check_degraded_images(degradation: Degradation) -> None:
    """Shrink images by its scale, in [-1, 1] and rounded to 8 bits."""
    require_positive_integer(degradation, "scale")
    gt = _gt(degradation, 3)
    before = gt.clone()
    lq = degradation(gt, seeded())
    require_finite("the degraded images", lq, (3, 3, *LQ_SIZE))
    require_image_range("the degraded images", lq)
    values = (lq.double() + 1) * 127.5
    error = float((values - values.round()).abs().max())
    require(error < 1e-3, "the degraded images are not rounded to 8 bits")
    require(torch.equal(gt, before), "the clean images are changed in place")


def check_repeatability(degradation: Degradation) -> None:
    """Depend on nothing but the input and the generator."""
    gt = _gt(degradation, 2)
    require_repeatable("the result", lambda: degradation(gt, seeded()))


def check_independence(degradation: Degradation) -> None:
    """Draw for each image of a batch by itself, whatever else is in the batch."""
    image = _gt(degradation, 1)
    others = _gt(degradation, 2, seed=1)
    a = degradation(torch.cat([image, others[:1]]), seeded())
    b = degradation(torch.cat([image, others[1:]]), seeded())
    same = torch.allclose(a[0], b[0], atol=1e-5)
    require(same, "an image comes out differently in the company of another one")

    # A degradation without random draws may treat copies alike.
    copies = image.expand(4, -1, -1, -1)
    degraded = degradation(copies, seeded(1))
    is_random = not torch.equal(degraded, degradation(copies, seeded(2)))
    all_equal = all(torch.equal(degraded[0], other) for other in degraded[1:])
    require(not (is_random and all_equal), "all images of a batch share one draw")


def check_dataset(dataset: Any) -> None:
    """Be a map-style dataset whose first and last images can be read."""
    # Runs use this module without any check of datasets.
    from distillkit.data.opening import open_source

    source = open_source(dataset=dataset)
    for index in {0, len(source) - 1}:
        size = source.read(index).sizes.gt
        require(size is not None and min(size) > 0, f"image {index} is empty")


def check_metric_interface(metric: Metric | SetMetric) -> None:
    """Be a Metric or a SetMetric with a name and a protocol."""
    is_metric = isinstance(metric, Metric | SetMetric)
    name = type(metric).__name__
    require(is_metric, f"build returned a {name}, which lacks attributes of a Metric")
    require(bool(metric.name and metric.protocol), "its name or protocol is empty")


def check_metric_values(metric: Metric | SetMetric) -> None:
    """Give one finite number per image, also against a single reference."""
    if isinstance(metric, SetMetric):
        raise DoesNotApply("it rates all images together")
    restored = smooth_images(3, *METRIC_SIZE)
    gt = smooth_images(3, *METRIC_SIZE, seed=1)
    require_finite("its result", metric(restored, gt), (3,))
    require_finite("its result against one reference", metric(restored, gt[:1]), (3,))


def check_metric_order(metric: Metric | SetMetric) -> None:
    """Rate the reference itself above a noisy copy of it."""
    gt = smooth_images(2, *METRIC_SIZE)
    noise = torch.randn(gt.shape, generator=seeded())
    noisy = (gt + 0.3 * noise).clamp(-1, 1)
    if isinstance(metric, SetMetric):
        truth = metric.features(gt)
        high = torch.tensor(metric.distance(truth, truth))
        low = torch.tensor(metric.distance(metric.features(noisy), truth))
    else:
        high = metric(gt, gt)
        low = metric(noisy, gt)
    if not metric.higher_is_better:
        high, low = low, high
    require((high > low).all(), "a noisy image is rated no worse than the reference")


def check_metric_gradient(metric: Metric | SetMetric) -> None:
    """Pass gradient to the restored images."""
    if isinstance(metric, SetMetric) or not metric.differentiable:
        raise DoesNotApply("it says that it is not differentiable")
    restored = smooth_images(2, *METRIC_SIZE).requires_grad_()
    gt = smooth_images(2, *METRIC_SIZE, seed=1)
    (gradient,) = torch.autograd.grad(metric(restored, gt).sum(), restored)
    require_finite("the gradient", gradient, tuple(restored.shape))
    require(gradient.abs().sum() > 0, "the gradient is zero")


def check_mask(find: FindMask) -> None:
    """Give a mask (h, w) in [0, 1] of an image of any size."""
    require(callable(find), f"build returned a {type(find).__name__}, which is not callable")
    for height, width in MASK_SIZES:
        image = _pixels(height, width)
        before = image.copy()
        read_mask(find(image), height, width)
        require(np.array_equal(image, before), "the image is changed in place")


def check_mask_repeatability(find: FindMask) -> None:
    """Depend on nothing but the image."""
    image = _pixels(*MASK_SIZES[0])
    require_repeatable("the mask", lambda: torch.from_numpy(read_mask(find(image), *MASK_SIZES[0])))


def _pixels(height: int, width: int) -> np.ndarray:
    """Draw an image (h, w, 3) in [0, 1]."""
    (image,) = smooth_images(1, height, width)
    return ((image + 1) / 2).permute(1, 2, 0).contiguous().numpy()


CHECKS: dict[str, list[Check]] = {
    "degradation": [check_degraded_images, check_repeatability, check_independence],
    "dataset": [check_dataset],
    "metric": [
        check_metric_interface,
        check_metric_values,
        check_metric_order,
        check_metric_gradient,
    ],
    "mask": [check_mask, check_mask_repeatability],
}
"""The checks of each kind of thing. The first one checks its interface."""
