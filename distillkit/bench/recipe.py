"""A recipe's training and restoring, measured on this machine."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from distillkit.bench.device import copy_bandwidth, machine, matrix_ceiling, peak, restart_peak, synchronize
from distillkit.bench.train import measure
from distillkit.inference.build import build
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import Student
from distillkit.preflight import check_presence
from distillkit.recipe.load import ResolvedRecipe
from distillkit.run import open_batches
from distillkit.training.cast import build_cast
from distillkit.training.stages import first_stage, second_stage

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


def bench(resolved: ResolvedRecipe, *, steps: int, warmup: int = 2, images: int = 5) -> dict[str, Any]:
    """Measure ``steps`` steps of each stage and the restoration of ``images`` images of the size of a training crop.

    Returns:
        plain data: ``recipe``, ``sha256`` of the resolved recipe, ``crop``, ``batch``, ``machine``, ``ceilings`` (``flops`` and
        ``copy``, each per second, measured now), ``stages`` (by name, :class:`~distillkit.bench.train.Measured`; ``stage2`` only
        where the recipe has one) and ``restore``.

    Raises:
        DistillkitError: weights or training images are missing, or a loss is not finite.
    """
    resolved = without_evaluation(resolved)
    recipe = resolved.recipe
    check_presence(resolved)
    accelerator = Accelerator(mixed_precision=recipe.training.precision)
    device = accelerator.device
    ceilings = {"flops": matrix_ceiling(device, DTYPES[recipe.training.precision]), "copy": copy_bandwidth(device)}
    cast = build_cast(resolved, device)
    batches = open_batches(resolved, cast, accelerator.num_processes)
    perceptual = build(resolved, "stage1.perceptual", device) if recipe.stage1.weights.perceptual > 0 else None

    stage, adapter = first_stage(recipe, cast, perceptual)
    stages = {"stage1": measure(stage, recipe, batches, accelerator, warmup=warmup, steps=steps)}
    adapter.merge()
    variant = None
    if recipe.stage2.steps:
        stage, variant = second_stage(recipe, cast, perceptual)
        stages["stage2"] = measure(stage, recipe, batches, accelerator, warmup=warmup, steps=steps)
    restorer = Restorer(Student(cast.student, variant), device)
    return {
        "recipe": recipe.name,
        "sha256": hashlib.sha256(resolved.to_toml().encode()).hexdigest(),
        "crop": recipe.data.crop,
        "batch": recipe.data.batch_size,
        "machine": machine(device),
        "ceilings": ceilings,
        "stages": {name: asdict(found) for name, found in stages.items()},
        "restore": _restoring(restorer, recipe.data.crop // cast.student.scale, 0.5 if variant else None, images),
    }


def without_evaluation(resolved: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe without held-out images: what only they need may be missing."""
    recipe = resolved.recipe
    return replace(resolved, recipe=recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": []})}))


def _restoring(restorer: Restorer, side: int, tradeoff: float | None, images: int) -> dict[str, float]:
    """Images of ``side`` x ``side`` input pixels restored per second, megapixels of the result per second, and peak bytes."""


    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    restorer(image, tradeoff)
    restart_peak(restorer.device)
    synchronize(restorer.device)
    began = time.perf_counter()
    for _ in range(images):
        restorer(image, tradeoff)
    seconds = (time.perf_counter() - began) / images
    megapixels = (side * restorer.scale) ** 2 / 1e6
    found = {"side": side, "images_per_s": 1 / seconds, "megapixels_per_s": megapixels / seconds}
    return found | {"peak_memory": peak(restorer.device)}
