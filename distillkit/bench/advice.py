"""What ``distillkit doctor RECIPE`` finds out: what is missing, what steps will take, what to change if that is too much."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distillkit.bench.compare import measure_apart
from distillkit.bench.device import total_memory
from distillkit.bench.forecast import Forecast, fitting_crop, forecast
from distillkit.bench.subject import Subject
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.schema import Recipe
from distillkit.runs.preflight import list_needs

GIB = 2**30
Say = Callable[[str], None]


def examine(
    resolved: ResolvedRecipe, sets: Sequence[str], budget: float | None, *, check: bool, say: Say
) -> bool:
    """Report on ``resolved``, and whether it can be run here as it is.

    Args:
        sets: the ``--set`` texts it was loaded with. budget: bytes that a run may take; None: what the device has.
        check: measure a step at the recipe's own crop, too. say: told line by line.

    Raises:
        DistillkitError: its models cannot be built, or a dry step fails for another reason than memory.
    """
    say(f"\nrecipe       {resolved.path}")
    needs = list_needs(resolved)
    for line in needs.present:
        say(f"here         {line}")
    for line in needs.missing:
        say(f"MISSING      {line}")
    if not needs.can_train:
        say(
            f"memory       weights take at most {needs.weight_bytes / GIB:.1f} GiB, by the sizes of their files, read once each"
        )
        say(
            "not told     activations and seconds of a step: they are measured, with the weights and training images"
        )
        say(f"fetch what can be fetched with: distillkit fetch {resolved.path}")
        return False
    try:
        found, unit, available = _dry_steps(resolved)
    except (RuntimeError, MemoryError) as e:
        if "memory" not in str(e).lower() and not isinstance(e, MemoryError):
            raise
        say(f"TOO LITTLE   memory ran out in a dry step: {str(e).splitlines()[0]}")
        for settings in cures(resolved.recipe):
            say(f"try          {_options(settings)}")
        return False
    budget = budget or available or float("inf")
    for part in found:
        for line in _told(part, resolved.recipe, budget):
            say(line)
    disk = _disk(found, resolved.recipe)
    free = shutil.disk_usage(Path.cwd()).free
    say(
        f"disk         {disk / 1e9:.2f} GB for checkpoints, student and cache, {free / 1e9:.1f} GB free in {Path.cwd()}"
    )
    if check and found[0].crops != [resolved.recipe.data.crop_size]:
        _compare(found, resolved, sets, say)
    fits = all(part.peak <= budget for part in found)
    if not fits:
        for line in _advise(found, resolved, sets, unit, budget):
            say(line)
    return fits and disk < free and not needs.missing


def _dry_steps(resolved: ResolvedRecipe) -> tuple[list[Forecast], int, int | None]:
    """The forecasts, what crops must be multiples of, and the device's memory; the models are gone afterwards."""
    subject = Subject(resolved)
    return forecast(subject), subject.crop_unit, total_memory(subject.device)


def _told(found: Forecast, recipe: Recipe, budget: float) -> Iterator[str]:
    crop = recipe.data.crop_size
    crops = ", ".join(map(str, found.crops))
    how = (
        "measured by a dry step"
        if found.crops == [crop]
        else f"predicted from dry steps at crop {crops}"
    )
    yield f"\n{found.stage}: a step at crop {crop}, batch {recipe.data.batch_size}; {how}"
    rest = found.before - sum(found.weights.values())
    for name, size in [
        *((f"weights: {n}", s) for n, s in found.weights.items()),
        ("Python, libraries, the rest", max(rest, 0)),
    ]:
        yield _row(name, size)
    yield _row("gradients, optimizer, average", found.states)
    yield _row("activations", found.activations)
    yield (
        _row("together", found.peak)
        + f" of {budget / GIB:.1f}"
        + ("" if found.peak <= budget else ": TOO MUCH")
    )
    steps = recipe.stage1.steps if found.stage == "stage1" else recipe.stage2.steps
    yield f"  {'seconds a step':<32}{found.seconds:>9.2f}   {steps} steps: {found.seconds * steps / 3600:.1f} hours"


def _row(name: str, size: float) -> str:
    return f"  {name:<32}{size / GIB:>9.3f} GiB"


def _disk(found: Sequence[Forecast], recipe: Recipe) -> float:
    """Bytes: the checkpoints kept, the last one of each stage and the one being written; the trained tensors; the cache's limit."""
    largest, trained = max(part.states for part in found), sum(part.states // 4 for part in found)
    checkpoints = (recipe.training.checkpoints_total_limit + len(found) + 1) * largest
    return checkpoints + trained + recipe.training.cache_gib * GIB


def _compare(
    found: Sequence[Forecast], resolved: ResolvedRecipe, sets: Sequence[str], say: Say
) -> None:
    measured = measure_apart(resolved.path, sets, 1, warmup=1, look=False)["stages"]
    for part in found:
        peak, seconds = measured[part.stage]["peak_memory"], measured[part.stage]["ms"] / 1000
        of_peak = f"peak predicted {part.peak / GIB:.2f} GiB, measured {peak / GIB:.2f} ({part.peak / peak - 1:+.0%})"
        of_time = f"step predicted {part.seconds:.2f} s, measured {seconds:.2f} ({part.seconds / seconds - 1:+.0%})"
        say(f"check        {part.stage}: {of_peak}; {of_time}")


def cures(recipe: Recipe) -> list[list[str]]:
    """Settings that save memory and that the recipe does not have yet, cheapest first: they cost time, precision, the objective."""
    training, batch = recipe.training, recipe.data.batch_size
    copies = (
        training.mixed_precision == "bf16"
        and training.sharding == "none"
        and not training.compile
        and not training.gradient_checkpointing
    )
    checkpointing = ["training.gradient_checkpointing=true"]
    if copies:  # a recipe may not have both
        checkpointing.insert(0, "training.recast_weights=false")
    known = [
        (
            batch > 1,
            [
                "data.batch_size=1",
                f"training.gradient_accumulation_steps={batch * training.gradient_accumulation_steps}",
            ],
        ),
        (not training.per_term_backward, ["training.per_term_backward=true"]),
        (copies and not training.recast_weights, ["training.recast_weights=true"]),
        (not training.gradient_checkpointing, checkpointing),
        (training.mixed_precision == "no", ['training.mixed_precision="bf16"']),
        (
            recipe.stage1.teacher_gradient == "full",
            ['stage1.teacher_gradient="sds"', 'stage1.score_weighting="sample"'],
        ),
    ]
    return [settings for missing, settings in known if missing]


def _advise(
    found: Sequence[Forecast],
    resolved: ResolvedRecipe,
    sets: Sequence[str],
    unit: int,
    budget: float,
) -> Iterator[str]:
    """One setting after the other, each tried on top of those before it on the largest crop measured, until a step fits."""
    yield f"\nto fit {budget / GIB:.1f} GiB, in this order, each on top of those before:"
    small, taken = found[0].crops[-1], list[str]()
    for settings in cures(resolved.recipe):
        taken += settings
        tried = measure_apart(
            resolved.path, [*sets, f"data.crop_size={small}", *taken], 1, warmup=1, look=False
        )["stages"]
        found = [part.with_settings(tried[part.stage]) for part in found]
        peaks = ", ".join(
            f"{part.stage} {part.peak / GIB:.2f} GiB {part.seconds:.2f} s" for part in found
        )
        yield f"  {peaks}  {_options(settings)}"
        if all(part.peak <= budget for part in found):
            return
    crop = fitting_crop(found, resolved.recipe.data.crop_size, unit, budget)
    if crop is None:
        yield "  and no crop would be small enough: the weights alone are too large"
    else:
        yield f"  and the largest crop that fits then:  --set data.crop_size={crop}"


def _options(settings: Sequence[str]) -> str:
    return " ".join(f"--set {shlex.quote(s)}" for s in settings)
