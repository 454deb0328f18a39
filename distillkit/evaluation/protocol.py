"""The evaluation protocol: every method restores the same inputs, and every metric sees the same 8-bit images.

An output is clamped and rounded to 8 bits before anything is measured, as a saved file would be. Random draws depend on the seed,
the item and the method's name alone: neither the order of items nor the presence of another method changes them, and a student has
the same draws at every tradeoff. Crops of one photo are not independent, so all standard errors are clustered by photo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.captions import captioned
from distillkit.errors import DataError, DistillkitError, WeightsError, did_you_mean
from distillkit.evaluation.gallery import Images
from distillkit.evaluation.results import Entry, Measure, Results
from distillkit.metrics.base import Metric, SetMetric, from_uint8, psnr, to_uint8

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PIXELS_PER_PASS = 2**18
"""Images of one size are measured in batches of at most this many pixels, to bound memory."""


@dataclass(frozen=True)
class Method(Entry):
    """Something that restores images, at one tradeoff."""

    restore: Callable[[str, Tensor, torch.Generator], Tensor]
    """``(item, lq (1, 3, h, w) in [-1, 1], CPU generator) -> image (1, 3, H, W)`` of the size of the ground truth, on the CPU."""

    @property
    def entry(self) -> Entry:
        """Its line of the results."""
        return Entry(**{f.name: getattr(self, f.name) for f in fields(Entry)})


def bicubic_method(scale: int) -> Method:
    """Bicubic enlargement (a = -0.5, as Pillow's) by ``scale``; at scale 1, the input itself."""

    def restore(item: str, lq: Tensor, generator: torch.Generator) -> Tensor:
        return (
            F.interpolate(lq, scale_factor=scale, mode="bicubic", antialias=True)
            if scale != 1
            else lq
        )

    return Method("bicubic", None, 0, restore, parameters=0)


def available_metrics(
    builds: Mapping[str, Callable[[], Metric | SetMetric]],
) -> tuple[list[Metric | SetMetric], dict[str, str]]:
    """Build metrics by name; those whose weights or packages are not on this machine come back as name -> reason instead."""
    metrics: list[Metric | SetMetric] = []
    absent: dict[str, str] = {}
    for name, build in builds.items():
        try:
            metrics.append(build())
        except WeightsError as e:
            absent[name] = str(e)
    return metrics, absent


def evaluate(
    methods: Sequence[Method],
    items: Iterable[EvaluationPair],
    metrics: Sequence[Metric | SetMetric],
    *,
    dataset: str,
    seed: int = 0,
    combine: tuple[str, str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    reference: str | None = None,
    device: str | None = None,
    absent: Mapping[str, str] | None = None,
    observe: Callable[[str, Images], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Results:
    """Restore every item with every method and measure every metric.

    Args:
        methods: with distinct labels.
        items: crops of one photo are named ``photo#crop``. Methods restore an item with its caption in force.
        metrics: with distinct names. PSNR is added where none of them is one, for a tradeoff is not seen without it.
        combine: labels of the faithful and the realistic teacher, whose linear combinations are added as ``linear:<alpha>``.
        alphas: weights of the faithful teacher's image in those.
        reference: label of the entry that all others are compared with, in pairs.
        device: what the methods run on, for the record.
        absent: metrics asked for whose weights are missing (from :func:`available_metrics`); kept in the results.
        observe: called with each item's name and its images, for galleries.
        progress: called with each item's name when it is done.

    Raises:
        DistillkitError: a method or a metric gave a non-finite value, or an image of the wrong size; method and image are named. No
            such reference, or no such methods to combine.
        DataError: no items, or two of one name.
    """
    labels = [m.label for m in methods]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two methods share a label: {sorted(labels)}")
    if not any(m.name.startswith("psnr") for m in metrics):
        metrics = [psnr(), *metrics]
    if len({m.name for m in metrics}) < len(metrics):
        raise ValueError(f"two metrics share a name: {sorted(m.name for m in metrics)}")
    entries = [m.entry for m in methods]
    if missing := [label for label in combine or () if label not in labels]:
        there = f"{', '.join(labels)}{did_you_mean(missing[0], labels)}"
        raise DistillkitError(f"combine {missing[0]} - no such method; there are {there}")
    if combine is not None:
        entries += [Entry(f"linear:{alpha:g}", None, None) for alpha in alphas]
    known = [e.label for e in entries]
    if reference is not None and reference not in known:
        there = f"{', '.join(known)}{did_you_mean(reference, known)}"
        raise DistillkitError(f"reference {reference} - no such method; there are {there}")
    seconds: dict[str, list[float]] = {m.label: [] for m in methods if m.nfe is not None}
    per_image = [m for m in metrics if not isinstance(m, SetMetric)]
    of_sets = {m.name: FeatureSets(m) for m in metrics if isinstance(m, SetMetric)}
    columns: dict[tuple[str, str], list[float]] = {
        (e.label, m.name): [] for e in entries for m in per_image
    }
    names: list[str] = []
    for name, lq, gt, caption in items:
        if name in names:
            raise DataError(
                f"{dataset} - two images to evaluate are called {name}; names must be unique"
            )
        names.append(name)
        with captioned([caption]):
            outputs = {
                m.label: to_uint8(_restore(m, name, lq, gt, seed, seconds.get(m.label, [])))
                for m in methods
            }
        if combine is not None:
            outputs |= linear_combinations(outputs[combine[0]], outputs[combine[1]], alphas)
        for metric in per_image:
            try:
                found = _measure(metric, list(outputs.values()), gt)
            except DataError as e:
                raise DataError(f"{name} - {e}") from e
            for label, value in zip(outputs, found, strict=True):
                if not np.isfinite(value):
                    raise DistillkitError(f"{label} on {name} - metric {metric.name} is {value}")
                columns[label, metric.name].append(value)
        for sets in of_sets.values():
            sets.add({**outputs, "gt": to_uint8(gt)})
        if observe is not None:
            observe(
                name,
                {
                    "lq": to_uint8(lq)[0],
                    "gt": to_uint8(gt)[0],
                    **{k: v[0] for k, v in outputs.items()},
                },
            )
        if progress is not None:
            progress(name)
    if not names:
        raise DataError(f"{dataset} - no images to evaluate")
    values = {key: np.array(column) for key, column in columns.items()}
    values |= {
        (label, name): np.array(value)
        for name, sets in of_sets.items()
        for label, value in sets.distances().items()
    }
    return Results(
        dataset=dataset,
        items=tuple(names),
        entries=tuple(_with_costs(entries, seconds, combine)),
        metrics=tuple(
            Measure(m.name, m.protocol, m.higher_is_better, m.perceptual, m.name in of_sets)
            for m in metrics
        ),
        values=values,
        teachers=combine,
        reference=reference,
        device=device,
        absent=dict(absent or {}),
    )


class FeatureSets:
    """What a metric of whole sets keeps of the images of every method and of the ground truth."""

    def __init__(self, metric: SetMetric) -> None:
        self.metric = metric
        self.features: dict[str, list[Tensor]] = {}

    def add(self, images: Mapping[str, Tensor]) -> None:
        """Keep the features of uint8 images (1, 3, H, W), by label; ``gt`` is the ground truth."""
        for label, image in images.items():
            self.features.setdefault(label, []).append(
                self.metric.features(from_uint8(image)).cpu()
            )

    def distances(self) -> dict[str, float]:
        """The metric of each label but ``gt``.

        Raises:
            DistillkitError: not a finite number.
        """
        sets = {label: torch.cat(parts) for label, parts in self.features.items()}
        gt = sets.pop("gt")
        found = {label: self.metric.distance(features, gt) for label, features in sets.items()}
        if bad := [label for label, value in found.items() if not np.isfinite(value)]:
            raise DistillkitError(f"{bad[0]} - metric {self.metric.name} is {found[bad[0]]}")
        return found


def linear_combinations(
    faithful: Tensor, realistic: Tensor, alphas: Sequence[float]
) -> dict[str, Tensor]:
    """``linear:<alpha>`` -> ``alpha faithful + (1 - alpha) realistic``, rounded; uint8 images in and out (CTSR, Tab. 1)."""
    f, r = faithful.float(), realistic.float()
    return {
        f"linear:{alpha:g}": (alpha * f + (1 - alpha) * r).round().to(torch.uint8)
        for alpha in alphas
    }


def _with_costs(
    entries: Sequence[Entry],
    seconds: Mapping[str, Sequence[float]],
    combine: tuple[str, str] | None,
) -> list[Entry]:
    """The entries with their median seconds; a combination costs what both of its parts cost."""
    timed = {
        e.label: replace(e, seconds=float(np.median(s)) if (s := seconds.get(e.label)) else None)
        for e in entries
    }
    parts = [timed[label] for label in combine or ()]
    costs: dict[str, Any] = {}
    for name in ("nfe", "parameters", "seconds"):
        each = [getattr(part, name) for part in parts]
        costs[name] = None if None in each else sum(each)
    return [replace(e, **costs) if e.is_combination else e for e in timed.values()]


@torch.no_grad()
def _restore(
    method: Method, item: str, lq: Tensor, gt: Tensor, seed: int, seconds: list[float]
) -> Tensor:
    started = time.perf_counter()
    image = method.restore(
        item, lq.clone(), keyed_generator(seed, "evaluation", item, method.name)
    ).to(gt.device)
    seconds.append(time.perf_counter() - started)
    if image.shape != gt.shape:
        raise DistillkitError(
            f"{method.label} on {item} - output is {tuple(image.shape)}, the ground truth {tuple(gt.shape)}"
        )
    if not torch.isfinite(image).all():
        raise DistillkitError(f"{method.label} on {item} - output is not finite")
    return image


@torch.no_grad()
def _measure(metric: Metric, images: list[Tensor], gt: Tensor) -> list[float]:
    """One value per image; ``gt`` (1, 3, H, W) in [-1, 1] is seen as its 8-bit file too."""
    reference = from_uint8(to_uint8(gt))
    size = max(1, PIXELS_PER_PASS // (gt.shape[2] * gt.shape[3]))
    values = [metric(from_uint8(part), reference) for part in torch.cat(images).split(size)]
    return torch.cat(values).double().tolist()
