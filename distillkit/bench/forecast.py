"""How much memory and time a step will take, told from dry steps on smaller crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distillkit.bench.subject import Subject
from distillkit.bench.train import Measured
from distillkit.training.loop import Stage

FRACTIONS = 0.25, 0.375, 0.5
"""Sides of the crops that dry steps are made on, as shares of the recipe's."""
LONG_MS = 20_000
"""A first step that took longer is not repeated: what it warms up is little of it."""
BENT = 0.05
"""How far below the line through its neighbors, relative to its value, a measurement may lie for growth to count as linear."""


def smaller_crops(crop: int, unit: int, decoded: int | None = None) -> list[int]:
    """Sides below ``crop`` that are multiples of ``unit``, near :data:`FRACTIONS` of it; ``[crop]`` itself where there is none.

    With ``decoded``, the side of the part that is decoded at any crop, they lie between the two, and one alone says nothing of what
    grows with the crop and what does not.
    """
    low = decoded if decoded is not None and decoded < crop else 0
    sides = {max(round((low + fraction * (crop - low)) / unit), 1) * unit for fraction in FRACTIONS}
    smaller = sorted(side for side in sides if low <= side < crop)
    return smaller if len(smaller) > (1 if low else 0) else [crop]


def grown(found: Mapping[int, float], crop: int) -> float:
    """A quantity at ``crop`` from its values at smaller crops: it grows with the pixels, in attention with their square.

    Of one value: proportional to the pixels. Of two: the line through them. Of three: the line through the outer ones, unless the
    middle one lies more than 5 % below it; then the parabola through all. A line that falls, or is below 0 at no pixels, is noise:
    then the largest value is scaled with the pixels.
    """
    if crop in found:
        return found[crop]
    points = sorted((side**2, value) for side, value in found.items())
    (low, first), (high, last), pixels = points[0], points[-1], crop**2
    slope = (last - first) / (high - low) if high > low else 0.0
    if len(points) == 3:
        middle, value = points[1]
        sag = first + slope * (middle - low) - value
        if sag > BENT * value:
            return (
                first
                + slope * (pixels - low)
                + sag * (pixels - low) * (pixels - high) / ((middle - low) * (high - middle))
            )
    if slope <= 0 or first - slope * low < 0:
        return last * pixels / high
    return first + slope * (pixels - low)


@dataclass(frozen=True)
class Forecast:
    """A step of one stage at the recipe's own crop. Memory in bytes."""

    stage: str
    crops: list[int]
    """What was measured. The recipe's own crop alone: then nothing is extrapolated."""
    weights: dict[str, int]
    """By network, as :meth:`~distillkit.bench.subject.Subject.weights` counts them."""
    before: int
    """Held before the first step: weights, and on a CPU Python and its libraries."""
    states: int
    """Gradients, the optimizer's two moments and the moving average of the trained tensors."""
    activations: float
    """What a step takes beside these, at its peak."""
    seconds: float
    measured_activations: float
    measured_seconds: float
    """Both at the largest crop that was measured."""

    @property
    def peak(self) -> float:
        return self.before + self.states + self.activations

    def with_settings(self, tried: Mapping[str, float]) -> Forecast:
        """The forecast under other settings, of which ``tried`` is a measurement at the largest crop: shares carry over.

        ``tried`` holds ``peak_memory``, ``held_before`` and ``ms`` of :class:`~distillkit.bench.train.Measured`.
        """
        activations = float(max(tried["peak_memory"] - tried["held_before"] - self.states, 0))
        seconds = tried["ms"] / 1000
        return replace(
            self,
            activations=self.activations * activations / max(self.measured_activations, 1),
            seconds=self.seconds * seconds / self.measured_seconds,
            measured_activations=activations,
            measured_seconds=seconds,
        )


def forecast(subject: Subject) -> list[Forecast]:
    """Dry steps of each stage, on smaller crops than the recipe's where its models take them.

    Raises:
        DistillkitError: a loss is not finite. RuntimeError: memory ran out even so.
    """
    crop = subject.recipe.data.crop_size
    crops = smaller_crops(crop, subject.crop_unit, subject.recipe.stage1.decode_crop_size)
    forecasts = []
    for stage in subject.stages():
        found = {c: _dry_step(subject, stage, c) for c in crops}
        trained = sum(t.nbytes for t in stage.module.tensors().values())
        forecasts.append(_of_stage(stage.name, found, subject.weights(), trained, crop))
    return forecasts


def _dry_step(subject: Subject, stage: Stage, crop: int) -> Measured:
    """A first step; where it was short, the median of three more."""
    first = subject.measure(stage, crop, warmup=0, steps=1, look=False)
    return (
        first if first.ms > LONG_MS else subject.measure(stage, crop, warmup=0, steps=3, look=False)
    )


def _of_stage(
    name: str, found: Mapping[int, Measured], weights: dict[str, int], trained: int, crop: int
) -> Forecast:
    """``trained``: bytes of the parameters that the stage trains."""
    states, before, largest = 4 * trained, next(iter(found.values())).held_before, max(found)
    activations = {
        side: float(max(m.peak_memory - before - states, 0)) for side, m in found.items()
    }
    seconds = {side: m.ms / 1000 for side, m in found.items()}
    expected = grown(activations, crop), grown(seconds, crop)
    return Forecast(
        name,
        sorted(found),
        weights,
        before,
        states,
        *expected,
        activations[largest],
        seconds[largest],
    )


def fitting_crop(found: Sequence[Forecast], crop: int, unit: int, budget: float) -> int | None:
    """The largest crop below ``crop`` at which every stage fits ``budget`` bytes; None: there is none.

    Activations are taken to go with the pixels.
    """

    def fits(side: int) -> bool:
        return all(
            f.before + f.states + f.activations * (side / crop) ** 2 <= budget for f in found
        )

    return next((side for side in range(crop - unit, 0, -unit) if fits(side)), None)
