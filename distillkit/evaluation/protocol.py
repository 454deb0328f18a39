"""The evaluation protocol: the same inputs for every method, the same images for every metric.

An output is clamped and rounded to 8 bits before anything is measured, as a saved file would be.
Random draws depend on the seed, the item and the method's name alone: neither the order of items
nor the presence of another method changes them, and a student has the same draws at every tradeoff.
Crops of one photo are not independent, so all standard errors are clustered by photo.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import ModelInput
from distillkit.errors import (
    DataError,
    DistillkitError,
    MissingPackageError,
    WeightsError,
    did_you_mean,
)
from distillkit.evaluation.gallery import Images
from distillkit.evaluation.measurement_file import ItemValues, MeasurementFile
from distillkit.evaluation.measuring import Measured, SetFeatures, measure
from distillkit.evaluation.results import (
    ALL_IMAGES,
    WEIGHTS_ABSENT,
    AbsentMetric,
    MeasuredMetric,
    MethodRow,
    Results,
    Unmeasured,
    combination_name,
)
from distillkit.files.images import to_uint8
from distillkit.inference.color import fix_8_bit_colors
from distillkit.metrics.base import Metric, SetMetric
from distillkit.metrics.distortion import psnr
from distillkit.recipe.schema import ColorFix

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Cost = TypeVar("Cost", int, float)


@dataclass(frozen=True)
class Method(MethodRow):
    """Something that restores images, at one tradeoff."""

    restore: Callable[[str, ModelInput, torch.Generator], Tensor]
    """Restores ``(item, inputs with lq (1, 3, h, w) in [-1, 1], CPU generator)``.

    The image (1, 3, H, W) is on the CPU and has the size of the ground truth.
    """

    @property
    def row(self) -> MethodRow:
        """Its row of the results."""
        return MethodRow(**{f.name: getattr(self, f.name) for f in fields(MethodRow)})


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation does beside restoring and measuring."""

    dataset: str
    seed: int = 0
    combine: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Labels of the faithful and the realistic method whose images are combined, by curve."""
    alphas: Sequence[float] = ALPHAS
    """Weights of the faithful method's image in the combinations, called ``<curve>:<alpha>``."""
    reference: str | None = None
    """Label of the method that all others are compared with, in pairs."""
    device: str | None = None
    """What the methods run on, for the record."""
    start: str | None = None
    """What the student was before training, for the record."""
    color_fix: ColorFix = "none"
    """Gives every image that is restored here the colors of its input; not those read from files.

    Linear combinations are of fixed images.
    """
    absent: Mapping[str, AbsentMetric] = field(default_factory=dict)
    """Requested metrics that could not be built, by name, for the record."""


def bicubic_method(scale: int) -> Method:
    """Enlarge bicubically (a = -0.5, as Pillow's) by ``scale``; at scale 1 return the input."""

    def restore(item: str, inputs: ModelInput, generator: torch.Generator) -> Tensor:
        if scale == 1:
            return inputs.lq
        return F.interpolate(inputs.lq, scale_factor=scale, mode="bicubic", antialias=True)

    return Method("bicubic", None, 0, restore, parameters=0)


def available_metrics(
    builds: Mapping[str, Callable[[], Metric | SetMetric]],
    tolerated: type[DistillkitError] = WeightsError,
) -> tuple[list[Metric | SetMetric], dict[str, AbsentMetric]]:
    """Build those metrics whose weights and packages are on this machine.

    Args:
        builds: Functions that build the metrics, by the metric's name.
        tolerated: A metric whose build raises this counts as absent; other errors are raised.

    Returns:
        The metrics that were built, and by name why the others were not.
    """
    metrics: list[Metric | SetMetric] = []
    absent: dict[str, AbsentMetric] = {}
    for name, build in builds.items():
        try:
            metrics.append(build())
        except tolerated as e:
            absent[name] = AbsentMetric(str(e), _summarize(e))
    return metrics, absent


def _summarize(error: DistillkitError) -> str:
    """Shorten why a metric is absent to the summary of an :class:`AbsentMetric`."""
    if isinstance(error, MissingPackageError):
        return error.problem
    if isinstance(error, WeightsError) and error.remedy:
        return WEIGHTS_ABSENT + error.remedy
    return "failed"


def evaluate(
    methods: Sequence[Method],
    items: Iterable[EvaluationPair],
    metrics: Sequence[Metric | SetMetric],
    settings: EvaluationSettings,
    *,
    observe: Callable[[str, Images], None] | None = None,
    store: MeasurementFile | None = None,
) -> Results:
    """Restore every item with every method and measure every metric.

    A metric that fails on an image, or gives no finite number, costs that value. The reason is in
    the results.

    Args:
        methods: Methods with distinct labels.
        items: Images; crops of one photo are named ``photo#crop``. Methods restore an item with
            its caption in force.
        metrics: Metrics with distinct names. PSNR is added where none of them is one, because a
            tradeoff is not seen without it.
        settings: Dataset, seed, linear combinations and reference.
        observe: Called with each item's name and its images, for galleries.
        store: Keeps the values of each item as they come. What it has is not measured again.

    Raises:
        DistillkitError: A method gave a non-finite value, or an image of the wrong size; method
            and image are named. No such reference, or no such methods to combine.
        DataError: No items, or two with the same name.
    """
    if not any(metric.name.startswith("psnr") for metric in metrics):
        metrics = [psnr(), *metrics]
    _require_distinct("methods share a label", [method.label for method in methods])
    _require_distinct("metrics share a name", [metric.name for metric in metrics])
    evaluation = _Evaluation(methods, metrics, settings, store)
    for item in items:
        images = evaluation.add(item)
        if observe is not None:
            observe(item.name, images)
    return evaluation.results()


def linear_combinations(
    curve: str, faithful: Tensor, realistic: Tensor, alphas: Sequence[float]
) -> dict[str, Tensor]:
    """Combine two images, ``alpha faithful + (1 - alpha) realistic``, rounded (CTSR, Tab. 1).

    Args:
        curve: What the names begin with, ``linear``.
        faithful: uint8 image.
        realistic: uint8 image of the same shape.
        alphas: Weights of the faithful image.

    Returns:
        ``<curve>:<alpha>`` -> uint8 image.
    """
    f = faithful.float()
    r = realistic.float()
    combinations = {}
    for alpha in alphas:
        image = alpha * f + (1 - alpha) * r
        combinations[combination_name(curve, alpha)] = image.round().to(torch.uint8)
    return combinations


class _Evaluation:
    """What an evaluation collects, item by item."""

    def __init__(
        self,
        methods: Sequence[Method],
        metrics: Sequence[Metric | SetMetric],
        settings: EvaluationSettings,
        store: MeasurementFile | None,
    ) -> None:
        self.methods = methods
        self.metrics = metrics
        self.settings = settings
        self.store = store
        self.rows = method_rows(methods, settings)
        self.names: list[str] = []
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.unmeasured: list[Unmeasured] = []
        self.set_features = [SetFeatures(m) for m in metrics if isinstance(m, SetMetric)]

    def add(self, item: EvaluationPair) -> Images:
        """Restore and measure an item; return its images, uint8 (3, H, W)."""
        if item.name in self.names:
            raise DataError(
                f"{self.settings.dataset} - two images to evaluate are called {item.name}; "
                "names must be unique"
            )
        self.names.append(item.name)
        outputs = self._restore_item(item)
        self._measure_item(item, outputs)
        # Features are kept instead of images, so that memory does not grow with their size.
        gt = to_uint8(item.gt)
        for features in self.set_features:
            features.add(item.name, {**outputs, "gt": gt})
        shown = {"lq": to_uint8(item.lq), "gt": gt, **outputs}
        return {label: image[0] for label, image in shown.items()}

    def _restore_item(self, item: EvaluationPair) -> dict[str, Tensor]:
        """Restore an item with every method: label -> uint8 (1, 3, H, W)."""
        outputs = {}
        for method in self.methods:
            # The time of rounding and of the checks below is not the method's.
            started = time.perf_counter()
            image = _restore(method, item, self.settings.seed)
            self.seconds[method.label].append(time.perf_counter() - started)
            _check_output(image, method, item)
            output = to_uint8(image)
            if method.nfe is not None:
                output = fix_8_bit_colors(output, to_uint8(item.lq), self.settings.color_fix)
            outputs[method.label] = output
        combinations: dict[str, Tensor] = {}
        for curve, pair in self.settings.combine.items():
            faithful, realistic = (outputs[label] for label in pair)
            combinations |= linear_combinations(curve, faithful, realistic, self.settings.alphas)
        return outputs | combinations

    def _measure_item(self, item: EvaluationPair, outputs: Mapping[str, Tensor]) -> None:
        """Keep the values of every output, and why others are missing."""
        known: ItemValues = {}
        if self.store is not None:
            known = self.store.find(item.name)
        complete: dict[str, Mapping[str, float]] = {}
        for metric in self.metrics:
            if isinstance(metric, SetMetric):
                continue
            if metric.name in known:
                measured = Measured(dict(known[metric.name]), {})
            else:
                measured = measure(metric, outputs, item.gt)
            self._note_failures(item.name, metric, measured)
            if not measured.reasons:
                complete[metric.name] = measured.values
            for label in outputs:
                self.values[label, metric.name].append(measured.values[label])
        if self.store is not None:
            # What failed is not kept: it is tried again next time.
            self.store.add(item.name, complete)

    def _note_failures(self, item: str, metric: Metric | SetMetric, measured: Measured) -> None:
        for label, reason in measured.reasons.items():
            self.unmeasured.append(Unmeasured(item, label, metric.name, reason))

    def results(self) -> Results:
        """Return everything that was measured.

        Raises:
            DataError: There were no items.
        """
        if not self.names:
            raise DataError(f"{self.settings.dataset} - no images to evaluate")
        values = {key: np.array(column) for key, column in self.values.items()}
        labels = [row.label for row in self.rows]
        for features in self.set_features:
            measured = features.distances(labels)
            self._note_failures(ALL_IMAGES, features.metric, measured)
            for label, distance in measured.values.items():
                values[label, features.metric.name] = np.array(distance)
        return Results(
            dataset=self.settings.dataset,
            items=tuple(self.names),
            methods=tuple(self._rows_with_costs()),
            metrics=tuple(_describe(metric) for metric in self.metrics),
            values=values,
            combined=dict(self.settings.combine),
            reference=self.settings.reference,
            device=self.settings.device,
            start=self.settings.start,
            color_fix=self.settings.color_fix,
            absent=dict(self.settings.absent),
            unmeasured=tuple(self.unmeasured),
        )

    def _rows_with_costs(self) -> list[MethodRow]:
        """Return the rows with their median seconds; a combination costs what both methods do."""
        # A combination itself was never restored, so it has no time of its own yet.
        rows = {row.label: self._with_seconds(row) for row in self.rows}
        for curve, pair in self.settings.combine.items():
            faithful, realistic = (rows[label] for label in pair)
            for alpha in self.settings.alphas:
                name = combination_name(curve, alpha)
                rows[name] = replace(
                    rows[name],
                    nfe=_add(faithful.nfe, realistic.nfe),
                    parameters=_add(faithful.parameters, realistic.parameters),
                    seconds=_add(faithful.seconds, realistic.seconds),
                )
        return list(rows.values())

    def _with_seconds(self, row: MethodRow) -> MethodRow:
        """Add the median time, except where images were read instead of restored."""
        if row.nfe is None:
            return row
        median = float(np.median(self.seconds[row.label]))
        return replace(row, seconds=median)


def method_rows(methods: Sequence[Method], settings: EvaluationSettings) -> list[MethodRow]:
    """Return a row of the results for each method and each linear combination.

    Raises:
        DistillkitError: No such methods to combine, or no such reference.
    """
    rows = [method.row for method in methods]
    combinations = []
    for curve, pair in settings.combine.items():
        for label in pair:
            _require_method("combine", label, rows)
        for alpha in settings.alphas:
            combinations.append(MethodRow(combination_name(curve, alpha), None, None))
    rows += combinations
    if settings.reference is not None:
        _require_method("reference", settings.reference, rows)
    return rows


def _require_method(setting: str, label: str, rows: Sequence[MethodRow]) -> None:
    labels = [row.label for row in rows]
    if label not in labels:
        there = f"{', '.join(labels)}{did_you_mean(label, labels)}"
        raise DistillkitError(f"{setting} {label} - no such method; there are {there}")


def _require_distinct(problem: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"two {problem}: {sorted(names)}")


def _add(a: Cost | None, b: Cost | None) -> Cost | None:
    """Add two costs; None where one of them is unknown."""
    if a is None or b is None:
        return None
    return a + b


def _describe(metric: Metric | SetMetric) -> MeasuredMetric:
    return MeasuredMetric(
        name=metric.name,
        protocol=metric.protocol,
        higher_is_better=metric.higher_is_better,
        perceptual=metric.perceptual,
        of_set=isinstance(metric, SetMetric),
    )


@torch.no_grad()
def _restore(method: Method, item: EvaluationPair, seed: int) -> Tensor:
    # Not the label: a student has the same draws at every tradeoff.
    generator = keyed_generator(seed, "evaluation", item.name, method.name)
    # A method may work in place; the next one sees the same input.
    inputs = ModelInput(item.lq.clone(), [item.caption])
    return method.restore(item.name, inputs, generator).to(item.gt.device)


def _check_output(image: Tensor, method: Method, item: EvaluationPair) -> None:
    where = f"{method.label} on {item.name}"
    if image.shape != item.gt.shape:
        shapes = f"{tuple(image.shape)}, the ground truth {tuple(item.gt.shape)}"
        raise DistillkitError(f"{where} - output is {shapes}")
    if not torch.isfinite(image).all():
        raise DistillkitError(f"{where} - output is not finite")
