"""Forecast the memory and time of a step from dry steps on smaller crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from torch import nn

from distillkit import PreparedStage, ResolvedRecipe, prepare_stages
from distillkit_bench.device import total_memory
from distillkit_bench.train import StageMeasurement, measure_stage

FRACTIONS = (0.25, 0.375, 0.5)
"""Sides of the crops of dry steps, as shares of the recipe's."""
LONG_STEP_MS = 20_000
"""A first step that took longer is not repeated: little of it is warming up."""
LINEAR_TOLERANCE = 0.05
"""Growth counts as linear where the middle measurement lies no further below the line through the
outer ones, relative to its value."""


def choose_crops(
    crop: int, unit: int, decode_crop_size: int | None = None, smallest: int = 1
) -> list[int]:
    """Choose the crops of dry steps, near :data:`FRACTIONS` of the recipe's.

    A decode crop takes the same at any crop, so the smaller crops lie above it. One of them alone
    does not say how much grows with the crop.

    Args:
        crop: Side of the recipe's crop.
        unit: What sides are multiples of.
        decode_crop_size: Side of the decode crop, if the recipe has one.
        smallest: The smallest side that the losses take.

    Returns:
        Sides below ``crop``; ``[crop]`` where there are not enough.
    """
    lowest = 0
    if min(FRACTIONS) * crop < smallest:
        lowest = smallest
    needed = 1
    if decode_crop_size is not None and decode_crop_size < crop:
        lowest = max(decode_crop_size, lowest)
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
        if sag > LINEAR_TOLERANCE * value:
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
    """By network, see :func:`count_weights`."""
    memory_before: int
    """In use before the first step: weights, and on a CPU Python and its libraries."""
    states: int
    """Bytes for the trained tensors: gradients, the optimizer's two moments, moving average."""
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
            measurement: The measurement of the other settings at the largest crop of the dry steps:
                ``peak_memory``, ``memory_before`` and ``ms`` of
                :class:`~distillkit_bench.train.StageMeasurement`.
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


@dataclass(frozen=True)
class RecipeForecast:
    """The steps of a recipe's stages, and what limits them."""

    steps: list[StepForecast]
    crop_unit: int
    """The number of pixels that training crops are multiples of."""
    device_memory: int | None
    """Bytes; None where the system does not say."""


def forecast_recipe(resolved: ResolvedRecipe) -> RecipeForecast:
    """Forecast a step of each stage, from dry steps on smaller crops if possible.

    The models are gone afterwards.

    Raises:
        DistillkitError: Weights or training images are missing, or a loss is not finite.
        RuntimeError: Memory ran out even so.
    """
    recipe = resolved.recipe
    crop_size = recipe.data.crop_size
    steps: list[StepForecast] = []
    for prepared in prepare_stages(resolved):
        if not steps:
            # The first stage has all the models that any later one has.
            crop_unit = find_crop_unit(prepared)
            smallest = find_smallest_crop(prepared)
            decode_crop_size = recipe.stage1.decode_crop_size
            crops = choose_crops(crop_size, crop_unit, decode_crop_size, smallest)
        measurements = {side: _measure_dry_step(prepared, side) for side in crops}
        steps.append(_forecast_stage(prepared, measurements, crop_size))
    return RecipeForecast(steps, crop_unit, total_memory(prepared.device))


def find_crop_unit(prepared: PreparedStage) -> int:
    """Find the number of pixels that training crops are multiples of."""
    student = prepared.models.student
    models = (student, *prepared.models.teachers.values())
    return lcm(*(student.scale * model.size_multiple for model in models))


def find_smallest_crop(prepared: PreparedStage) -> int:
    """Find the smallest side that the distances among the losses take."""
    reconstruction = prepared.reconstruction
    # A metric of a plugin need not say.
    smallest = getattr(reconstruction.distance, "smallest_side", 1) + reconstruction.max_shift
    models = prepared.models
    for distance in (*models.anchor_metrics.values(), *models.output_metrics.values()):
        smallest = max(smallest, getattr(distance, "smallest_side", 1))
    return smallest


def count_weights(prepared: PreparedStage) -> dict[str, int]:
    """Count the bytes of each network's tensors; shared ones for the first."""
    owners: dict[str, Any] = {"student": prepared.models.student}
    for role, teacher in prepared.models.teachers.items():
        owners[f"{role} teacher"] = teacher
    owners["perceptual distance"] = prepared.reconstruction.distance
    return count_tensor_bytes(owners)


def count_tensor_bytes(owners: Mapping[str, Any]) -> dict[str, int]:
    """Count the bytes of the tensors of each owner that is a module.

    Memory that several share is counted for the first of them.
    """
    seen: set[int] = set()
    sizes = {}
    for name, owner in owners.items():
        if not isinstance(owner, nn.Module):
            continue
        sizes[name] = 0
        for tensor in (*owner.parameters(), *owner.buffers()):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                sizes[name] += storage.nbytes()
    return sizes


def _measure_dry_step(prepared: PreparedStage, crop_size: int) -> StageMeasurement:
    """Measure a first step; where it was short, measure three more instead."""
    first = measure_stage(prepared, crop_size, warmup=0, steps=1, breakdown=False)
    if first.ms > LONG_STEP_MS:
        return first
    return measure_stage(prepared, crop_size, warmup=0, steps=3, breakdown=False)


def _forecast_stage(
    prepared: PreparedStage, measurements: Mapping[int, StageMeasurement], crop_size: int
) -> StepForecast:
    """Forecast a step of a stage.

    Args:
        prepared: The stage.
        measurements: By side of the crop, the smallest first.
        crop_size: Side of the recipe's crop.
    """
    trained = sum(tensor.nbytes for tensor in prepared.stage.module.tensors().values())
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
        stage=prepared.name,
        crops=sorted(measurements),
        weights=count_weights(prepared),
        memory_before=memory_before,
        states=states,
        activations=extrapolate(activations, crop_size),
        seconds=extrapolate(seconds, crop_size),
        measured_activations=activations[largest],
        measured_seconds=seconds[largest],
    )


def find_fitting_crop(
    forecasts: Sequence[StepForecast], crop: int, unit: int, memory_limit: float
) -> int | None:
    """Find the largest smaller crop at which every stage fits.

    Activations count as proportional to the pixels.

    Args:
        forecasts: The forecasts of all stages.
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
