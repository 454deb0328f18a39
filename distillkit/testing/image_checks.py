"""Promises of degradations, datasets and metrics. Each function tests what its docstring states, and raises if it is not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distillkit.data.degradation import Degradation
from distillkit.data.sources import open_source
from distillkit.metrics.base import Metric, SetMetric
from distillkit.plugins.manager import Kind
from distillkit.testing.contract import DoesNotApply
from distillkit.testing.probe import (
    finite,
    generator,
    images,
    in_range,
    positive_integer,
    repeatable,
    require,
)

SIZE = (24, 20)


def _gt(degradation: Degradation, n: int, seed: int = 0) -> torch.Tensor:
    return images(n, SIZE[0] * degradation.scale, SIZE[1] * degradation.scale, seed)


def degrades(degradation: Degradation) -> None:
    """makes images smaller by its scale, in [-1, 1] and rounded to 8 bits, and leaves its input alone."""
    positive_integer(degradation, "scale")
    gt = _gt(degradation, 3)
    before = gt.clone()
    lq = degradation(gt, generator())
    finite("the degraded images", lq, (3, 3, *SIZE))
    in_range("the degraded images", lq)
    levels = (lq.double() + 1) * 127.5
    require(
        float((levels - levels.round()).abs().max()) < 1e-3,
        "the degraded images are not rounded to 8 bits",
    )
    require(torch.equal(gt, before), "the clean images are changed in place")


def degrades_repeatably(degradation: Degradation) -> None:
    """depends on nothing but its input and the generator."""
    gt = _gt(degradation, 2)
    repeatable("the result", lambda: degradation(gt, generator()))


def degrades_each_image_by_itself(degradation: Degradation) -> None:
    """draws for every image of a batch by itself: what else is in the batch does not matter."""
    first, others = _gt(degradation, 1), _gt(degradation, 2, seed=1)
    a = degradation(torch.cat([first, others[:1]]), generator())
    b = degradation(torch.cat([first, others[1:]]), generator())
    require(
        torch.allclose(a[0], b[0], atol=1e-5),
        "an image comes out differently in the company of another one",
    )
    copies = first.expand(4, -1, -1, -1)
    is_random = not torch.equal(
        degradation(copies, generator(1)), degradation(copies, generator(2))
    )
    result = degradation(copies, generator(1))
    require(
        not is_random or any(not torch.equal(result[0], other) for other in result[1:]),
        "all images of a batch share one draw",
    )


def dataset_is_readable(dataset: Any) -> None:
    """is a map-style dataset whose first and last images can be read."""
    source = open_source(dataset=dataset)
    for index in {0, len(source) - 1}:
        example = source.read(index)
        require(min(example.gt.shape[:2]) > 0, f"image {index} is empty")


def metric_describes_itself(metric: Metric | SetMetric) -> None:
    """is a Metric or a SetMetric that says its name and protocol."""
    known = isinstance(metric, Metric | SetMetric)
    require(known, f"build returned a {type(metric).__name__}, which lacks attributes of a Metric")
    require(bool(metric.name and metric.protocol), "its name or protocol is empty")


def metric_rates_images(metric: Metric | SetMetric) -> None:
    """gives one finite number for each image of a batch, also against a single reference."""
    if isinstance(metric, SetMetric):
        raise DoesNotApply("it rates all images together")
    restored, gt = images(3, 96, 80), images(3, 96, 80, seed=1)
    finite("its result", metric(restored, gt), (3,))
    finite("its result against one reference", metric(restored, gt[:1]), (3,))


def metric_prefers_the_truth(metric: Metric | SetMetric) -> None:
    """rates the reference itself above a noisy copy of it."""
    gt = images(2, 96, 80)
    noisy = (gt + 0.3 * torch.randn(gt.shape, generator=generator())).clamp(-1, 1)
    sign = 1 if metric.higher_is_better else -1
    if isinstance(metric, SetMetric):
        truth = metric.features(gt)
        better = sign * metric.distance(truth, truth) > sign * metric.distance(
            metric.features(noisy), truth
        )
    else:
        better = bool((sign * metric(gt, gt) > sign * metric(noisy, gt)).all())
    require(better, "a noisy image is rated no worse than the reference")


def metric_passes_gradient(metric: Metric | SetMetric) -> None:
    """passes gradient to the restored images."""
    if isinstance(metric, SetMetric) or not metric.differentiable:
        raise DoesNotApply("it says that it is not differentiable")
    restored = images(2, 96, 80).requires_grad_()
    (gradient,) = torch.autograd.grad(metric(restored, images(2, 96, 80, seed=1)).sum(), restored)
    finite("the gradient", gradient, tuple(restored.shape))
    require(bool(gradient.abs().sum() > 0), "the gradient is zero")


PROMISES: dict[Kind, list[Callable[[Any], None]]] = {
    "degradations": [degrades, degrades_repeatably, degrades_each_image_by_itself],
    "datasets": [dataset_is_readable],
    "metrics": [
        metric_describes_itself,
        metric_rates_images,
        metric_prefers_the_truth,
        metric_passes_gradient,
    ],
}
