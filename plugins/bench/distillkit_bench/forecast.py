"""Forecast the memory and time of a step from dry steps on smaller crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distillkit.bench.subject import Subject
from distillkit.bench.train import StageMeasurement
from distillkit.training.loop import Stage

FRACTIONS = (0.25, 0.375, 0.5)
"""Sides of the crops of dry steps, as shares of the recipe's."""
LONG_MS = 20_000
"""A first step that took longer is not repeated: little of it is warming up."""
BENT = 0.05
"""Where growth counts as linear: how far a measurement may lie below the line through its
neighbors, relative to its value."""


def choose_crops(crop: int, unit: int, decode_crop_size: int | None = None) -> list[int]:
    """Choose the crops of dry steps, near :data:`FRACTIONS` of the recipe's.

    A decode crop takes the same at any crop, so the smaller crops lie above it. One of them alone
    does not say how much grows with the crop.

    Args:
        crop: Side of the recipe's crop.
        unit: What sides are multiples of.
        decode_crop_size: Side of the decode crop, if the recipe has one.

    Returns:
        Sides below ``crop``; ``[crop]`` where there are not enough.
    """
    lowest = 0
    needed = 1
    if decode_crop_size is not None and decode_crop_size < crop:
        lowest = decode_crop_size
        needed = 2
    sides = set()
    for fraction in FRACTIONS:
        units = round((lowest + fraction * (crop - lowest)) / unit)
        sides.add(max(units, 1) * unit)
    smaller = sorted(side for side in sides if lowest <= side < crop)
    if len(smaller) < needed:
        return [crop]
    return smaller


def extrapolate(values: Mapping[int, float], crop: int) -> float:
    """Extrapolate a quantity from smaller crops.

    It grows with the pixels, in attention with their square. Two values give a line through them.
    Three give the line through the outer ones, unless the middle one lies more than 5 % below it:
    then the parabola through all. One value is scaled with the pixels. So is the largest where the
    line falls, or is below 0 at no pixels: that is noise.

    Args:
        values: By side of the crop.
        crop: The side to extrapolate to.
    """
    if crop in values:
        return values[crop]
    points = sorted((side**2, value) for side, value in values.items())
    low, first = points[0]
    high, last = points[-1]
    pixels = crop**2
    slope = 0.0
    if high > low:
        slope = (last - first) / (high - low)
    line = first + slope * (pixels - low)
    if len(points) == 3:
        middle, value = points[1]
        sag = first + slope * (middle - low) - value
        if sag > BENT * value:
            curvature = (middle - low) * (high - middle)
            return line + sag * (pixels - low) * (pixels - high) / curvature
    if slope <= 0 or first - slope * low < 0:
        return last * pixels / high
    return line


@dataclass(frozen=True)
class StepForecast:
    """A step of one stage at the recipe's own crop; memory in bytes."""

    stage: str
    crops: list[int]
    """The crops of the dry steps; with the recipe's own crop alone, nothing is extrapolated."""
    weights: dict[str, int]
    """By network, see :meth:`~distillkit.bench.subject.Subject.count_weights`."""
    memory_before: int
    """In use before the first step: weights, and on a CPU Python and its libraries."""
    states: int
    """Of the trained tensors: gradients, the optimizer's two moments and the moving average."""
    activations: float
    """The rest of a step's peak."""
    seconds: float
    measured_activations: float
    """At the largest crop of the dry steps."""
    measured_seconds: float
    """At the largest crop of the dry steps."""

    @property
    def peak(self) -> float:
        """The peak memory of a step."""
        return self.memory_before + self.states + self.activations

    def rescale(self, measurement: Mapping[str, float]) -> StepForecast:
        """Forecast a step under other settings; ratios carry over to the crop.

        Args:
            measurement: Of the other settings at the largest crop of the dry steps:
                ``peak_memory``, ``memory_before`` and ``ms`` of
                :class:`~distillkit.bench.train.StageMeasurement`.
        """
        peak_memory = measurement["peak_memory"]
        activations = float(max(peak_memory - measurement["memory_before"] - self.states, 0))
        seconds = measurement["ms"] / 1000
        return replace(
            self,
            activations=self.activations * activations / max(self.measured_activations, 1),
            seconds=self.seconds * seconds / self.measured_seconds,
            measured_activations=activations,
            measured_seconds=seconds,
        )


def forecast_steps(subject: Subject) -> list[StepForecast]:
    """Forecast a step of each stage, from dry steps on smaller crops if possible.

    Raises:
        DistillkitError: A loss is not finite.
        RuntimeError: Memory ran out even so.
    """
    crop = subject.recipe.data.crop_size
    crops = choose_crops(crop, subject.crop_unit, subject.recipe.stage1.decode_crop_size)
    forecasts = []
    for stage in subject.stages():
        measurements = {side: _measure_dry_step(subject, stage, side) for side in crops}
        forecasts.append(_forecast_stage(stage, measurements, subject.count_weights(), crop))
    return forecasts


def _measure_dry_step(subject: Subject, stage: Stage, crop: int) -> StageMeasurement:
    """Measure a first step; where it was short, measure three more instead."""
    first = subject.measure(stage, crop, warmup=0, steps=1, breakdown=False)
    if first.ms > LONG_MS:
        return first
    return subject.measure(stage, crop, warmup=0, steps=3, breakdown=False)


def _forecast_stage(
    stage: Stage,
    measurements: Mapping[int, StageMeasurement],
    weights: dict[str, int],
    crop: int,
) -> StepForecast:
    """Forecast a step of a stage.

    Args:
        stage: The stage.
        measurements: By side of the crop, the smallest first.
        weights: Bytes by network.
        crop: Side of the recipe's crop.
    """
    trained = sum(tensor.nbytes for tensor in stage.module.tensors().values())
    states = 4 * trained
    smallest = min(measurements)
    largest = max(measurements)
    # Later measurements begin with memory that the first one left behind.
    memory_before = measurements[smallest].memory_before
    activations = {}
    seconds = {}
    for side, measurement in measurements.items():
        activations[side] = float(max(measurement.peak_memory - memory_before - states, 0))
        seconds[side] = measurement.ms / 1000
    return StepForecast(
        stage=stage.name,
        crops=sorted(measurements),
        weights=weights,
        memory_before=memory_before,
        states=states,
        activations=extrapolate(activations, crop),
        seconds=extrapolate(seconds, crop),
        measured_activations=activations[largest],
        measured_seconds=seconds[largest],
    )


def find_fitting_crop(
    forecasts: Sequence[StepForecast], crop: int, unit: int, memory_limit: float
) -> int | None:
    """Find the largest smaller crop at which every stage fits.

    Activations count as proportional to the pixels.

    Args:
        forecasts: Of all stages.
        crop: Side of the recipe's crop.
        unit: What sides are multiples of.
        memory_limit: Bytes.

    Returns:
        A side below ``crop``, or None where no crop is small enough.
    """
    for side in range(crop - unit, 0, -unit):
        scale = (side / crop) ** 2
        peaks = [f.memory_before + f.states + f.activations * scale for f in forecasts]
        if max(peaks) <= memory_limit:
            return side
    return None
