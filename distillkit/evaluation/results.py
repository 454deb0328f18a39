"""What an evaluation measured: every value of every image, and the paired comparisons that can be made of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from distillkit.evaluation.statistics import (
    Interval,
    Values,
    confidence_interval,
    photo_of,
    standard_error,
)

STUDENT, LINEAR = "student", "linear"
ROLES = ("fidelity", "realness")
"""The entries of a run's teachers."""
_STATISTICS = (
    "mean",
    "sem",
    "ci_low",
    "ci_high",
    "n",
    "reference",
    "difference",
    "difference_low",
    "difference_high",
)
"""What :meth:`Results.rows` says of a method and metric, in this order."""


def why_absent(reason: str) -> str:
    """A reason in a few words: ``weights absent``, or ``<package> is not installed``."""
    package, missing, _ = reason.partition(" is not installed")
    return package + missing if missing and " " not in package else "weights absent"


@dataclass(frozen=True)
class Entry:
    """One line of the results: a method at one tradeoff."""

    name: str
    """``student``, a teacher's role, ``bicubic``, or ``linear:<alpha>``."""
    tradeoff: float | None
    """0 = most realistic, 1 = most faithful; None where the method has no knob."""
    nfe: int | None
    """Network passes per image; None where only the images are known."""
    parameters: int | None = field(default=None, kw_only=True)
    """Of all networks that restoring takes, where they are known."""
    trainable: int | None = field(default=None, kw_only=True)
    """Of them, those that distillation trained."""
    seconds: float | None = field(default=None, kw_only=True)
    """Median time of restoring an image; None where it was not restored here."""

    @property
    def is_combination(self) -> bool:
        """Whether this is a linear combination of the teachers' outputs."""
        return self.name.startswith("linear:")

    @property
    def label(self) -> str:
        """The key of this entry: ``student@0.2``, or the name where there is no tradeoff."""
        return self.name if self.tradeoff is None else f"{self.name}@{self.tradeoff:g}"


@dataclass(frozen=True)
class Measure:
    """A metric that was measured, without its network."""

    name: str
    protocol: str
    higher_is_better: bool
    perceptual: bool
    of_set: bool = False
    """One number for all images together, such as FID: it has no standard error and takes part in no paired comparison."""


@dataclass(frozen=True)
class Difference:
    """A mean, or a paired mean difference, with its standard error and 95 % interval (None with fewer than two photos)."""

    mean: float
    sem: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class Gap:
    """PSNR of the student minus that of another curve at the student's perceptual distance."""

    tradeoff: float
    distance: float
    """The student's mean perceptual distance at this tradeoff, at which the two are compared."""
    difference: Difference | None
    """dB; None where the other curve does not reach that distance."""


@dataclass(frozen=True)
class Results:
    """Per-image values of every metric for every entry, on one dataset."""

    dataset: str
    items: tuple[str, ...]
    """Image names; ``photo#crop`` where several crops come from one photo."""
    entries: tuple[Entry, ...]
    metrics: tuple[Measure, ...]
    values: Mapping[tuple[str, str], Values]
    """(entry label, metric name) -> one value per item, (n,), all finite; of a metric of the whole set one value, shape ()."""
    teachers: tuple[str, str] | None = None
    """Labels of the faithful and the realistic method whose outputs were combined linearly: a run's teachers, or any two."""
    reference: str | None = None
    """Label of the entry that all others are compared with, in pairs."""
    device: str | None = None
    """Where ``seconds`` were measured."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Metrics asked for whose weights or packages are not on this machine, with the reason."""
    of_seeds: Mapping[tuple[str, str], Values] = field(default_factory=dict)
    """(entry label, metric name) -> mean over the items, one value per seed; empty after a single one."""

    @classmethod
    def over_seeds(cls, parts: Sequence[Results]) -> Results:
        """The same evaluation with several seeds as one: an item's value is its mean over them. Costs are those of the first."""
        if len(parts) == 1:
            return parts[0]
        stacked = {key: np.stack([part.values[key] for part in parts]) for key in parts[0].values}
        of_seeds = {key: v.reshape(len(parts), -1).mean(1) for key, v in stacked.items()}
        return replace(
            parts[0], values={key: v.mean(0) for key, v in stacked.items()}, of_seeds=of_seeds
        )

    @property
    def seeds(self) -> int:
        """Number of seeds that every item was restored with."""
        return max((len(means) for means in self.of_seeds.values()), default=1)

    def deviation(self, label: str, metric: str) -> float | None:
        """Standard deviation over seeds of the mean over items; None with a single seed."""
        return float(self.of_seeds[label, metric].std(ddof=1)) if self.seeds > 1 else None

    def entry(self, label: str) -> Entry:
        """The entry of that label."""
        return next(e for e in self.entries if e.label == label)

    def sweep(self, name: str = STUDENT) -> list[Entry]:
        """The entries of a method with a knob, from the most realistic to the most faithful."""
        return sorted(
            (e for e in self.entries if e.name == name and e.tradeoff is not None),
            key=lambda e: e.tradeoff or 0.0,
        )

    def combinations(self) -> list[Entry]:
        """The linear-combination curve, from the realistic teacher (alpha 0) to the faithful one (alpha 1), both included."""
        if self.teachers is None:
            return []
        between = sorted(
            (e for e in self.entries if e.is_combination),
            key=lambda e: float(e.name.removeprefix("linear:")),
        )
        return [self.entry(self.teachers[1]), *between, self.entry(self.teachers[0])]

    def baselines(self) -> list[str]:
        """The curves to compare a student with: ``linear`` where teachers were combined, and every other method with a knob."""
        others = dict.fromkeys(
            e.name for e in self.entries if e.tradeoff is not None and e.name != STUDENT
        )
        return [LINEAR, *others] if self.teachers else [*others]

    @property
    def fidelity(self) -> str:
        """The metric that measures faithfulness: the first PSNR."""
        return self.psnrs[0]

    @property
    def psnrs(self) -> list[str]:
        """Every PSNR that was measured: of colors or brightness alone, with or without a correction before it."""
        return [m.name for m in self.metrics if m.name.startswith("psnr")]

    @property
    def perceptual(self) -> list[Measure]:
        """The metrics of appearance that have a value for every image."""
        return [m for m in self.metrics if m.perceptual and not m.of_set]

    @property
    def photos(self) -> list[str]:
        """The photo each item was cut from: the independent units of every standard error."""
        return [photo_of(item) for item in self.items]

    def summary(self, label: str, metric: str) -> Difference:
        """Mean over items, its standard error and interval, clustered by photo; of a metric of the whole set its value."""
        return self._mean(self.values[label, metric])

    def paired(self, a: str, b: str, metric: str) -> Difference:
        """Mean of ``a - b`` over the same items, its standard error and interval, clustered by photo."""
        return self._mean(self.values[a, metric] - self.values[b, metric])

    def at_equal(self, metric: str, baseline: str = LINEAR, psnr: str | None = None) -> list[Gap]:
        """PSNR gap to a baseline's curve at each of the student's tradeoffs, at the student's mean perceptual distance.

        The curve is interpolated linearly between its two neighboring points to the student's mean distance, per image; the
        standard error is that of ``dP - slope dD`` (P: the PSNR, D: ``metric``, both student minus baseline, slope: dP/dD
        of the curve there), which allows for the distance being a sample mean too. Where the curve passes that distance more than
        once, its best PSNR counts. A chord lies below a concave curve: a baseline of few points flatters the student.

        Args:
            baseline: one of :meth:`baselines`. psnr: one of :attr:`psnrs`; default: :attr:`fidelity`.
        """
        psnr = psnr or self.fidelity
        points = self.combinations() if baseline == LINEAR else self.sweep(baseline)
        curve = [(self.values[e.label, metric], self.values[e.label, psnr]) for e in points]
        return [self._gap(e, metric, psnr, curve) for e in self.sweep()]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.json``, one a method and metric.

        Null are ``mean`` where a metric could not be measured; ``sem`` and the 95 % interval ``ci_low`` to ``ci_high`` with under
        two photos; the paired ``difference`` from the ``reference`` and its interval without a reference, too.
        """
        clustered = (
            "; sem and interval clustered by photo"
            if len(set(self.photos)) < len(self.items)
            else ""
        )
        rows = []
        for e in self.entries:
            head = {"method": e.name, "tradeoff": e.tradeoff, "dataset": self.dataset}
            tail = {
                "nfe": e.nfe,
                "seconds": e.seconds,
                "parameters": e.parameters,
                "trainable": e.trainable,
            }
            for m in self.metrics:
                sd = self.deviation(e.label, m.name)
                drawn = (
                    ""
                    if sd is None
                    else f"; mean of {self.seeds} seeds, standard deviation over them {sd:.3g}"
                )
                protocol = m.protocol + ("" if m.of_set else clustered) + drawn
                rows.append(
                    {
                        **head,
                        "metric": m.name,
                        "protocol": protocol,
                        **self._statistics(e.label, m),
                        **tail,
                    }
                )
            for name, reason in self.absent.items():
                empty = dict.fromkeys(_STATISTICS) | {"n": 0, "reference": self.reference}
                rows.append(
                    {**head, "metric": name, "protocol": why_absent(reason), **empty, **tail}
                )
        return rows

    def _statistics(self, label: str, measure: Measure) -> dict[str, Any]:
        own = self.summary(label, measure.name)
        paired = (
            None
            if self.reference is None or measure.of_set
            else self.paired(label, self.reference, measure.name)
        )
        low, high = own.interval or (None, None)
        found = {
            "mean": own.mean,
            "sem": own.sem,
            "ci_low": low,
            "ci_high": high,
            "n": len(self.items),
        }
        low, high = (paired and paired.interval) or (None, None)
        compared = {
            "difference": paired and paired.mean,
            "difference_low": low,
            "difference_high": high,
        }
        return {**found, "reference": self.reference, **compared}

    def to_json(self) -> str:
        """Everything, per image, so that two runs on the same items can be compared in pairs."""

        def nested(values: Mapping[tuple[str, str], Values]) -> dict[str, dict[str, Any]]:
            return {
                e.label: {m.name: values[e.label, m.name].tolist() for m in self.metrics}
                for e in self.entries
            }

        content = {
            "dataset": self.dataset,
            "items": self.items,
            "entries": [asdict(e) for e in self.entries],
            "metrics": [asdict(m) for m in self.metrics],
            "values": nested(self.values),
            "of_seeds": nested(self.of_seeds) if self.of_seeds else {},
            "teachers": self.teachers,
            "reference": self.reference,
            "device": self.device,
            "absent": dict(self.absent),
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The inverse of :meth:`to_json`."""
        content = json.loads(text)
        values, of_seeds = (
            {
                (e, m): np.array(v)
                for e, of_metric in content.get(key, {}).items()
                for m, v in of_metric.items()
            }
            for key in ("values", "of_seeds")
        )
        return cls(
            dataset=content["dataset"],
            items=tuple(content["items"]),
            entries=tuple(Entry(**e) for e in content["entries"]),
            metrics=tuple(Measure(**m) for m in content["metrics"]),
            values=values,
            teachers=content["teachers"] and tuple(content["teachers"]),
            reference=content.get("reference"),
            device=content.get("device"),
            absent=content["absent"],
            of_seeds=of_seeds,
        )

    def _mean(self, values: Values) -> Difference:
        if not values.ndim:
            return Difference(float(values), None)
        return Difference(
            float(values.mean()),
            standard_error(values, self.photos),
            confidence_interval(values, self.photos),
        )

    def _gap(
        self, entry: Entry, metric: str, psnr: str, curve: Sequence[tuple[Values, Values]]
    ) -> Gap:
        assert entry.tradeoff is not None
        distance, db = self.values[entry.label, metric], self.values[entry.label, psnr]
        return Gap(entry.tradeoff, float(distance.mean()), self._mean_above(curve, distance, db))

    def _mean_above(
        self, curve: Sequence[tuple[Values, Values]], distance: Values, psnr: Values
    ) -> Difference | None:
        target = distance.mean()
        found = []
        for (d0, p0), (d1, p1) in itertools.pairwise(curve):
            step = d1.mean() - d0.mean()
            weight = (target - d0.mean()) / step if step else 0.0
            if step and 0 <= weight <= 1:
                slope = (p1.mean() - p0.mean()) / step
                d_psnr = psnr - ((1 - weight) * p0 + weight * p1)
                d_distance = distance - ((1 - weight) * d0 + weight * d1)
                found.append(self._mean(d_psnr - slope * d_distance))
        return min(found, key=lambda gap: gap.mean) if found else None
