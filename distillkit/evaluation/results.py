"""What an evaluation measured: every value of every image, and paired comparisons of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from distillkit.evaluation.statistics import Estimate, Values, estimate_mean, photo_of

STUDENT = "student"
LINEAR = "linear"
"""The curve of the images of two teachers, or of any two methods, combined linearly."""
LINEAR_STAGE1 = "linear-stage1"
"""The same of the fidelity teacher and the stage-1 student."""
ROLES = ("fidelity", "realness")
"""The methods that are a run's teachers."""
WEIGHTS_ABSENT = "weights absent: "
"""What a cell without weights begins with; then follows how to get them."""
ALL_IMAGES = ""
"""In place of an image's name, where a metric judges all images together."""
ValueTable = Mapping[tuple[str, str], Values]
"""(method label, metric name) -> values."""


def combination_name(curve: str, alpha: float) -> str:
    """Name a linear combination: ``linear:0.3``."""
    return f"{curve}:{alpha:g}"


def is_combination(name: str) -> bool:
    """Whether a method's name or label is one of :func:`combination_name`."""
    return ":" in name


@dataclass(frozen=True)
class MethodRow:
    """One row of the results: a method at one tradeoff."""

    name: str
    """``student``, a teacher's role, ``bicubic``, or a combination (``linear:<alpha>``)."""
    tradeoff: float | None
    """0 = most realistic, 1 = most faithful; None where the method has a fixed tradeoff."""
    nfe: int | None
    """Network evaluations per image; None where only the images are known."""
    parameters: int | None = field(default=None, kw_only=True)
    """Parameters of all networks that restoring takes, where they are known."""
    trainable: int | None = field(default=None, kw_only=True)
    """Of them, those that distillation trained."""
    seconds: float | None = field(default=None, kw_only=True)
    """Median time of restoring an image; None where it was not restored here."""

    @property
    def is_combination(self) -> bool:
        """Whether this is a linear combination of two methods' outputs."""
        return is_combination(self.name)

    @property
    def label(self) -> str:
        """The key of this row: ``student@0.2``, or the name where there is no tradeoff."""
        if self.tradeoff is None:
            return self.name
        return f"{self.name}@{self.tradeoff:g}"


@dataclass(frozen=True)
class MeasuredMetric:
    """A metric that was measured, without its network."""

    name: str
    protocol: str
    higher_is_better: bool
    perceptual: bool
    of_set: bool = False
    """One number for all images together, such as FID.

    It has no standard error and takes part in no paired comparison.
    """


@dataclass(frozen=True)
class AbsentMetric:
    """Why a requested metric could not be built on this machine."""

    reason: str
    """The full text of the error."""
    summary: str
    """What fits into a cell of a table: ``weights absent: <how to get them>``, ``<package> is not
    installed``, or ``failed``."""


@dataclass(frozen=True)
class Unmeasured:
    """A metric that failed on a method's image: that image has no value in its mean."""

    item: str
    """The image; :data:`ALL_IMAGES` for a metric of the whole set."""
    method: str
    """The method's label."""
    metric: str
    reason: str


class _Point(NamedTuple):
    """A method's values of each image, (n,): one point of its curve."""

    distance: Values
    psnr: Values


@dataclass(frozen=True)
class Gap:
    """PSNR of the student minus a baseline's best at no greater perceptual distance."""

    tradeoff: float
    distance: float
    """The student's mean perceptual distance at this tradeoff, where the two are compared."""
    difference: Estimate | None
    """dB; None where nothing on the baseline's curve is that close to the ground truth."""


@dataclass(frozen=True)
class Results:
    """Per-image values of every metric for every method, on one dataset."""

    dataset: str
    items: tuple[str, ...]
    """Image names; ``photo#crop`` where several crops come from one photo."""
    methods: tuple[MethodRow, ...]
    metrics: tuple[MeasuredMetric, ...]
    values: ValueTable
    """One value per item, (n,); of a metric of the whole set one value, shape ().

    NaN where a metric failed. Everything else is finite.
    """
    combined: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Labels of the faithful and the realistic method of each curve of linear combinations."""
    reference: str | None = None
    """Label of the method that all others are compared with, in pairs."""
    device: str | None = None
    """Where ``seconds`` were measured."""
    start: str | None = None
    """What the student was before training; None where nobody knows."""
    color_fix: str = "none"
    """How all images that were restored here got the colors of their inputs."""
    absent: Mapping[str, AbsentMetric] = field(default_factory=dict)
    """Requested metrics that could not be built on this machine, by name."""
    seed_means: ValueTable = field(default_factory=dict)
    """Mean over the items, one value per seed; empty after a single seed."""
    unmeasured: tuple[Unmeasured, ...] = ()
    """Why values are NaN."""

    @classmethod
    def over_seeds(cls, runs: Sequence[Results]) -> Results:
        """Average evaluations of the same items with several seeds, item by item.

        Costs are those of the first.
        """
        first = runs[0]
        if len(runs) == 1:
            return first
        values = {}
        seed_means = {}
        for key in first.values:
            by_seed = np.stack([run.values[key] for run in runs])
            # An item that a metric failed on with one seed has no mean over them.
            values[key] = by_seed.mean(0)
            # A metric of the whole set has one value per seed, and no items to average.
            by_item = by_seed.reshape(len(runs), -1)
            measured = by_item[:, np.isfinite(by_item).all(0)]
            seed_means[key] = np.full(len(runs), math.nan)
            if measured.size:
                seed_means[key] = measured.mean(1)
        unmeasured = dict.fromkeys(cell for run in runs for cell in run.unmeasured)
        return replace(first, values=values, seed_means=seed_means, unmeasured=tuple(unmeasured))

    @property
    def seeds(self) -> int:
        """Number of seeds that every item was restored with."""
        return max((len(means) for means in self.seed_means.values()), default=1)

    def deviation(self, label: str, metric: str) -> float | None:
        """Return the standard deviation over seeds of the mean over items; None for one seed."""
        if self.seeds == 1:
            return None
        return float(self.seed_means[label, metric].std(ddof=1))

    def method(self, label: str) -> MethodRow:
        """Return the method with that label."""
        return next(method for method in self.methods if method.label == label)

    def sweep(self, name: str = STUDENT) -> list[MethodRow]:
        """Return a method at all of its tradeoffs, the most realistic first."""
        points = [m for m in self.methods if m.name == name and m.tradeoff is not None]
        return sorted(points, key=lambda m: m.tradeoff or 0.0)

    @property
    def teachers(self) -> tuple[str, str] | None:
        """Labels of the faithful and the realistic method whose combinations are ``linear``.

        They are a run's teachers, or any two methods.
        """
        return self.combined.get(LINEAR)

    def combinations(self, curve: str = LINEAR) -> list[MethodRow]:
        """Return a curve of linear combinations, from the realistic method to the faithful one.

        Both methods are included, as alpha 0 and alpha 1.
        """
        if curve not in self.combined:
            return []
        faithful, realistic = self.combined[curve]
        prefix = f"{curve}:"
        between = [method for method in self.methods if method.name.startswith(prefix)]
        between.sort(key=lambda m: float(m.name.removeprefix(prefix)))
        return [self.method(realistic), *between, self.method(faithful)]

    def baselines(self) -> list[str]:
        """Name the curves to compare a student with.

        They are the curves of linear combinations, and every other method with a tradeoff.
        """
        names = [m.name for m in self.methods if m.tradeoff is not None and m.name != STUDENT]
        return list(dict.fromkeys([*self.combined, *names]))  # once each, in their order

    @property
    def fidelity(self) -> str:
        """The metric that measures faithfulness: the first PSNR."""
        return self.psnrs[0]

    @property
    def psnrs(self) -> list[str]:
        """Every PSNR that was measured: of colors or luma, with or without a correction."""
        return [metric.name for metric in self.metrics if metric.name.startswith("psnr")]

    @property
    def perceptual(self) -> list[MeasuredMetric]:
        """The metrics of appearance that have a value for every image."""
        return [metric for metric in self.metrics if metric.perceptual and not metric.of_set]

    @property
    def photos(self) -> list[str]:
        """The photo of each item: the independent units of every standard error."""
        return [photo_of(item) for item in self.items]

    def summary(self, label: str, metric: str) -> Estimate:
        """Estimate the mean over items; of a metric of the whole set return its value.

        Items without a value are left out; without any value the mean is NaN.
        """
        return self._estimate(self.values[label, metric])

    def mean(self, label: str, metric: str) -> float:
        """Return the mean of :meth:`summary`, without the work of its interval."""
        values = self.values[label, metric]
        measured = values[np.isfinite(values)]
        if not measured.size:
            return math.nan
        return float(measured.mean())

    def count(self, label: str, metric: str) -> int:
        """Count the items that a metric measured."""
        values = self.values[label, metric]
        if not values.ndim:
            return len(self.items) if np.isfinite(values) else 0
        return int(np.isfinite(values).sum())

    def paired(self, a: str, b: str, metric: str) -> Estimate:
        """Estimate the mean of ``a - b`` over the items that have both."""
        return self._estimate(self.values[a, metric] - self.values[b, metric])

    def _estimate(self, values: Values) -> Estimate:
        measured = np.isfinite(values)
        if measured.all():
            return estimate_mean(values, self.photos)
        if not measured.any():
            return Estimate(math.nan, None)
        photos = [photo for photo, there in zip(self.photos, measured, strict=True) if there]
        return estimate_mean(values[measured], photos)

    def _complete(self, *metrics: str) -> Results:
        """Leave out the items that one of these metrics failed on, whatever the method.

        A method without any value is passed over.
        """
        complete = np.ones(len(self.items), bool)
        for (_, metric), values in self.values.items():
            measured = np.isfinite(values)
            if metric in metrics and measured.any():
                complete &= measured
        if complete.all() or not complete.any():
            return self
        items = [item for item, kept in zip(self.items, complete, strict=True) if kept]
        table = {key: column[complete] for key, column in self.values.items() if column.ndim}
        return replace(self, items=tuple(items), values=table)

    def at_equal(self, metric: str, baseline: str = LINEAR, psnr: str | None = None) -> list[Gap]:
        """Compare PSNR with the best that a baseline has at no greater distance.

        A baseline that is closer to the ground truth *and* more faithful dominates the student, so
        it is not enough to look where its curve has the student's distance. The best is sought on
        the whole curve up to that distance: at its points, and where the line between two
        neighbors reaches the distance. The lines are part of the curve because its parameter
        (alpha, or a tradeoff) can be set to any value between. A chord lies below a concave curve:
        a baseline of few points flatters the student.

        At a point the gap of an image is the difference of PSNR. On a line it is ``dP - slope dD``
        (P: the PSNR, D: ``metric``, both student minus baseline, slope: dP/dD of the line), which
        allows for the distance being a sample mean too. Errors and intervals are those of the gap
        to the point that was best on all images; that it was chosen on them is not in the error.

        Args:
            metric: The perceptual metric.
            baseline: One of :meth:`baselines`.
            psnr: One of :attr:`psnrs`; default: :attr:`fidelity`.

        Returns:
            A gap for each of the student's tradeoffs.
        """
        if psnr is None:
            psnr = self.fidelity
        complete = self._complete(metric, psnr)
        if complete is not self:
            # Means at equal distance are of the same items at every point.
            return complete.at_equal(metric, baseline, psnr)
        # Distances of a metric that is better when higher are compared with the other sign.
        higher_is_better = any(m.higher_is_better for m in self.metrics if m.name == metric)
        sign = -1 if higher_is_better else 1

        def point_of(method: MethodRow) -> _Point:
            distance = sign * self.values[method.label, metric]
            return _Point(distance, self.values[method.label, psnr])

        curve = [point_of(method) for method in self._curve(baseline)]
        gaps = []
        for method in self.sweep():
            assert method.tradeoff is not None
            point = point_of(method)
            gap = Gap(
                tradeoff=method.tradeoff,
                distance=sign * float(point.distance.mean()),
                difference=self._gap_to_curve(point, curve),
            )
            gaps.append(gap)
        return gaps

    def _curve(self, baseline: str) -> list[MethodRow]:
        if baseline in self.combined:
            return self.combinations(baseline)
        return self.sweep(baseline)

    def _gap_to_curve(self, point: _Point, curve: Sequence[_Point]) -> Estimate | None:
        """Estimate the gap to the best of a curve at no greater distance."""
        distance = point.distance.mean()
        gaps = [point.psnr - p.psnr for p in curve if p.distance.mean() <= distance]
        for start, end in itertools.pairwise(curve):
            gap = _compare_at_equal_distance(point, start, end)
            if gap is not None:
                gaps.append(gap)
        # A method may have no PSNR at all.
        measured = [gap for gap in gaps if np.isfinite(gap).all()]
        if not measured:
            return None
        return estimate_mean(min(measured, key=np.mean), self.photos)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.json``, one per method and metric.

        ``mean`` is null where a metric could not be measured. ``sem`` and the 95 % interval
        ``ci_low`` to ``ci_high`` are null with fewer than two photos; the paired ``difference``
        from the ``reference`` and its interval are null without a reference, too.
        """
        return [row for method in self.methods for row in self._rows_of(method)]

    def _rows_of(self, method: MethodRow) -> Iterator[dict[str, Any]]:
        identity = {
            "method": method.name,
            "tradeoff": method.tradeoff,
            "dataset": self.dataset,
        }
        costs = {
            "nfe": method.nfe,
            "seconds": method.seconds,
            "parameters": method.parameters,
            "trainable": method.trainable,
        }
        for metric in self.metrics:
            measured = {
                "metric": metric.name,
                "protocol": self._protocol_of(method.label, metric),
                **self._statistics_of(method.label, metric),
            }
            yield identity | measured | costs
        for name, absent in self.absent.items():
            missing = {
                "metric": name,
                "protocol": absent.summary,
                **self._statistics(None, None, 0),
            }
            yield identity | missing | costs

    def _protocol_of(self, label: str, metric: MeasuredMetric) -> str:
        parts = [metric.protocol]
        has_crops = len(set(self.photos)) < len(self.items)
        if has_crops and not metric.of_set:
            parts.append("sem and interval clustered by photo")
        deviation = self.deviation(label, metric.name)
        if deviation is not None:
            spread = f"standard deviation over them {deviation:.3g}"
            parts.append(f"mean of {self.seeds} seeds, {spread}")
        return "; ".join(parts)

    def _statistics_of(self, label: str, metric: MeasuredMetric) -> dict[str, Any]:
        mean = self.summary(label, metric.name)
        count = self.count(label, metric.name)
        if self.reference is None or metric.of_set:
            return self._statistics(mean, None, count)
        difference = self.paired(label, self.reference, metric.name)
        return self._statistics(mean, difference, count)

    def _statistics(
        self, mean: Estimate | None, difference: Estimate | None, count: int
    ) -> dict[str, Any]:
        """Spread estimates over the columns of a row; None where there is no number."""
        return {
            "mean": mean and _number(mean.mean),
            "sem": mean and mean.sem,
            "ci_low": _bound(mean, 0),
            "ci_high": _bound(mean, 1),
            "n": count,
            "reference": self.reference,
            "difference": difference and _number(difference.mean),
            "difference_low": _bound(difference, 0),
            "difference_high": _bound(difference, 1),
        }

    def to_json(self) -> str:
        """Write everything, per image, so that two runs can be compared in pairs."""
        content = {
            "dataset": self.dataset,
            "items": self.items,
            "methods": [asdict(method) for method in self.methods],
            "metrics": [asdict(metric) for metric in self.metrics],
            "values": _nest(self.values),
            "seed_means": _nest(self.seed_means),
            "combined": dict(self.combined),
            "reference": self.reference,
            "device": self.device,
            "start": self.start,
            "color_fix": self.color_fix,
            "absent": {name: asdict(absent) for name, absent in self.absent.items()},
            "unmeasured": [asdict(cell) for cell in self.unmeasured],
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(text)
        return cls(
            dataset=content["dataset"],
            items=tuple(content["items"]),
            methods=tuple(MethodRow(**method) for method in content["methods"]),
            metrics=tuple(MeasuredMetric(**metric) for metric in content["metrics"]),
            values=_flatten(content["values"]),
            combined={curve: tuple(pair) for curve, pair in content["combined"].items()},
            reference=content["reference"],
            device=content["device"],
            start=content["start"],
            color_fix=content["color_fix"],
            absent={name: AbsentMetric(**absent) for name, absent in content["absent"].items()},
            seed_means=_flatten(content["seed_means"]),
            unmeasured=tuple(Unmeasured(**cell) for cell in content["unmeasured"]),
        )


def _compare_at_equal_distance(point: _Point, start: _Point, end: _Point) -> Values | None:
    """Return the gap of each image to a segment of a curve, at the point's mean distance.

    Returns:
        ``dP - slope dD`` of each image; None where the segment does not reach that distance.
    """
    step = end.distance.mean() - start.distance.mean()
    if not step:
        return None
    weight = (point.distance.mean() - start.distance.mean()) / step
    if not 0 <= weight <= 1:
        return None
    slope = (end.psnr.mean() - start.psnr.mean()) / step
    curve_psnr = (1 - weight) * start.psnr + weight * end.psnr
    curve_distance = (1 - weight) * start.distance + weight * end.distance
    return (point.psnr - curve_psnr) - slope * (point.distance - curve_distance)


def _bound(estimate: Estimate | None, side: int) -> float | None:
    """Return the lower (0) or upper (1) bound of an interval, where there is one."""
    if estimate is None or estimate.interval is None:
        return None
    return estimate.interval[side]


def _number(value: float) -> float | None:
    """Return None in place of NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def _nest(table: ValueTable) -> dict[str, dict[str, Any]]:
    """Turn a table by (label, metric) into one by label and then by metric."""
    nested: dict[str, dict[str, Any]] = {}
    for (label, metric), values in table.items():
        # JSON has no NaN. An array of objects holds None in its place.
        numbers = values.astype(object)
        numbers[np.isnan(values)] = None
        nested.setdefault(label, {})[metric] = numbers.tolist()
    return nested


def _flatten(nested: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Values]:
    """Undo :func:`_nest`."""
    table = {}
    for label, by_metric in nested.items():
        for metric, values in by_metric.items():
            table[label, metric] = np.array(values, dtype=np.float64)
    return table
