"""Say what a step of a recipe takes, and what to change if that is too much."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillkit import ResolvedRecipe
from distillkit_bench.alternatives import measure_in_subprocess
from distillkit_bench.forecast import (
    RecipeForecast,
    StepForecast,
    find_fitting_crop,
    forecast_recipe,
)

GIB = 2**30


@dataclass(frozen=True)
class Examination:
    """What a recipe takes, and whether it can be run here as it is; sizes in bytes."""

    fits: bool
    steps: Sequence[StepForecast] = ()
    """Empty where memory ran out in a dry step."""
    memory_limit: float | None = None
    disk: float | None = None
    """Bytes of checkpoints, student and cache."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        steps = [{**asdict(step), "peak": step.peak} for step in self.steps]
        limit = self.memory_limit
        # JSON has no infinity.
        if limit == float("inf"):
            limit = None
        return {"fits": self.fits, "memory_limit": limit, "disk": self.disk, "steps": steps}


def examine(
    resolved: ResolvedRecipe,
    memory_limit: float | None,
    *,
    check: bool,
    say: Callable[[str], None],
) -> Examination:
    """Report on a recipe.

    Args:
        resolved: The recipe.
        memory_limit: Bytes that a run may take; by default what the device has.
        check: Also measure a step at the recipe's own crop.
        say: Shows a line to the user.

    Raises:
        DistillkitError: Weights or training images are missing, or models cannot be built.
        RuntimeError: A dry step fails for another reason than memory.
    """
    say(f"recipe       {resolved.source}")
    try:
        forecast = forecast_recipe(resolved)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        _say_all(say, _format_out_of_memory(error, resolved))
        return Examination(fits=False)
    memory_limit = memory_limit or forecast.device_memory or float("inf")
    for step in forecast.steps:
        _say_all(say, _format_forecast(step, resolved, memory_limit))
    disk = _estimate_disk(forecast.steps, resolved)
    free = shutil.disk_usage(Path.cwd()).free
    say(
        f"disk         {disk / 1e9:.2f} GB for checkpoints, student and cache, "
        f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    )
    if check:
        _say_all(say, _check_forecasts(forecast.steps, resolved))
    _say_all(say, _advise(forecast, resolved, memory_limit))
    fits = _fit(forecast.steps, memory_limit) and disk < free
    return Examination(fits, forecast.steps, memory_limit, disk)


def _say_all(say: Callable[[str], None], lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def _is_out_of_memory(error: Exception) -> bool:
    """Recognize it by the message: on a CPU torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def _format_out_of_memory(error: Exception, resolved: ResolvedRecipe) -> Iterator[str]:
    yield f"TOO LITTLE   memory ran out in a dry step: {str(error).splitlines()[0]}"
    for settings in memory_savers(resolved):
        yield f"try          {_format_options(settings)}"


def _fit(forecasts: Sequence[StepForecast], memory_limit: float) -> bool:
    return all(forecast.peak <= memory_limit for forecast in forecasts)


def _format_forecast(
    forecast: StepForecast, resolved: ResolvedRecipe, memory_limit: float
) -> Iterator[str]:
    recipe = resolved.recipe
    crop = recipe.data.crop_size
    source = "measured by a dry step"
    if forecast.crops != [crop]:
        crops = ", ".join(str(side) for side in forecast.crops)
        source = f"predicted from dry steps at crop {crops}"
    batch_size = recipe.data.batch_size
    yield f"\n{forecast.stage}: a step at crop {crop}, batch {batch_size}; {source}"
    for network, size in forecast.weights.items():
        yield _format_row(f"weights: {network}", size)
    rest = forecast.memory_before - sum(forecast.weights.values())
    yield _format_row("Python, libraries, the rest", max(rest, 0))
    yield _format_row("gradients, optimizer, average", forecast.states)
    yield _format_row("activations", forecast.activations)
    total = f"{_format_row('total', forecast.peak)} of {memory_limit / GIB:.1f}"
    if forecast.peak > memory_limit:
        total += ": TOO MUCH"
    yield total
    steps_of = {"stage1": recipe.stage1.steps, "stage2": recipe.stage2.steps}
    steps = steps_of[forecast.stage]
    hours = forecast.seconds * steps / 3600
    yield f"  {'seconds a step':<32}{forecast.seconds:>9.2f}   {steps} steps: {hours:.1f} hours"


def _format_row(name: str, size: float) -> str:
    return f"  {name:<32}{size / GIB:>9.3f} GiB"


def _estimate_disk(forecasts: Sequence[StepForecast], resolved: ResolvedRecipe) -> float:
    """Estimate the bytes of checkpoints, trained tensors and a full cache.

    Checkpoints: those kept, the last one of each stage and the one that is being written.
    """
    largest = max(forecast.states for forecast in forecasts)
    # Four tensors of states for each trained one.
    trained = sum(forecast.states // 4 for forecast in forecasts)
    training = resolved.recipe.training
    checkpoints = (training.checkpoints_total_limit + len(forecasts) + 1) * largest
    return checkpoints + trained + training.cache_gib * GIB


def _check_forecasts(forecasts: Sequence[StepForecast], resolved: ResolvedRecipe) -> Iterator[str]:
    """Compare forecasts with measurements at the recipe's own crop, if they were made at others."""
    if forecasts[0].crops == [resolved.recipe.data.crop_size]:
        return
    measurement = measure_in_subprocess(
        resolved.source, resolved.overrides, 1, warmup=1, breakdown=False
    )
    for forecast in forecasts:
        stage = measurement["stages"][forecast.stage]
        peak = stage["peak_memory"]
        seconds = stage["ms"] / 1000
        memory = f"{forecast.peak / GIB:.2f} GiB, measured {peak / GIB:.2f}"
        memory_error = f"{forecast.peak / peak - 1:+.0%}"
        time = f"{forecast.seconds:.2f} s, measured {seconds:.2f}"
        time_error = f"{forecast.seconds / seconds - 1:+.0%}"
        yield (
            f"check        {forecast.stage}: peak predicted {memory} ({memory_error}); "
            f"step predicted {time} ({time_error})"
        )


def memory_savers(resolved: ResolvedRecipe) -> list[list[str]]:
    """List settings that save memory and that a recipe does not have yet.

    Cheapest first: they cost time, then precision, then the objective.
    """
    recipe = resolved.recipe
    training = recipe.training
    batch_size = recipe.data.batch_size
    accumulation = batch_size * training.gradient_accumulation_steps
    can_recast = (
        training.mixed_precision != "no"
        and training.sharding == "none"
        and not training.compile
        and not training.gradient_checkpointing
    )
    checkpointing = ["training.gradient_checkpointing=true"]
    if can_recast:  # a recipe may not have both
        checkpointing.insert(0, "training.recast_weights=false")
    savers = [
        (
            batch_size > 1,
            ["data.batch_size=1", f"training.gradient_accumulation_steps={accumulation}"],
        ),
        (
            not training.per_term_backward,
            ["training.per_term_backward=true"],
        ),
        (
            can_recast and not training.recast_weights,
            ["training.recast_weights=true"],
        ),
        (
            not training.gradient_checkpointing,
            checkpointing,
        ),
        (
            training.mixed_precision == "no",
            ['training.mixed_precision="bf16"'],
        ),
        (
            recipe.stage1.teacher_gradient == "full",
            ['stage1.teacher_gradient="sds"', 'stage1.score_weighting="sample"'],
        ),
    ]
    return [settings for is_missing, settings in savers if is_missing]


def _advise(
    forecast: RecipeForecast, resolved: ResolvedRecipe, memory_limit: float
) -> Iterator[str]:
    """Add one setting after the other, until a step fits; nothing where it fits already.

    Each is measured at the largest crop of the dry steps.
    """
    steps = forecast.steps
    if _fit(steps, memory_limit):
        return
    yield f"\nto fit {memory_limit / GIB:.1f} GiB, in this order, each on top of those before:"
    overrides = [*resolved.overrides, f"data.crop_size={steps[0].crops[-1]}"]
    for settings in memory_savers(resolved):
        overrides += settings
        measurement = measure_in_subprocess(
            resolved.source, overrides, 1, warmup=1, breakdown=False
        )
        stages = measurement["stages"]
        steps = [step.rescale(stages[step.stage]) for step in steps]
        figures = ", ".join(
            f"{step.stage} {step.peak / GIB:.2f} GiB {step.seconds:.2f} s" for step in steps
        )
        yield f"  {figures}  {_format_options(settings)}"
        if _fit(steps, memory_limit):
            return
    crop_size = resolved.recipe.data.crop_size
    crop = find_fitting_crop(steps, crop_size, forecast.crop_unit, memory_limit)
    if crop is None:
        yield "  and no crop would be small enough: the weights alone are too large"
    else:
        yield f"  and the largest crop that fits then:  --set data.crop_size={crop}"


def _format_options(settings: Sequence[str]) -> str:
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)
