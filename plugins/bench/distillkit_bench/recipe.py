"""Measure the training and restoring of a recipe on this machine."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from distillkit import PreparedStage, ResolvedRecipe, Restorer, prepare_stages
from distillkit_bench.device import (
    describe_machine,
    measure_copy,
    measure_matmul,
    read_peak_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit_bench.models import count_models
from distillkit_bench.train import measure_stage

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure_recipe(
    resolved: ResolvedRecipe,
    *,
    steps: int,
    warmup: int = 2,
    images: int = 5,
    breakdown: bool = True,
) -> dict[str, Any]:
    """Measure the steps of each stage, and restoring.

    Args:
        resolved: The recipe.
        steps: Timed steps of each stage.
        warmup: Steps before them.
        images: Restored images of the size of a training crop.
        breakdown: Make three more steps, for time by phase, NFE and FLOPs; else these are 0.

    Returns:
        Plain data: ``recipe``, ``sha256`` of the resolved recipe, ``crop``, ``batch``, ``machine``,
            ``ceilings`` (``flops`` and ``copy``, each per second, measured now; those of a CPU
            per second of one core), ``models`` (by name,
            :class:`~distillkit_bench.models.ModelCost`), ``stages`` (by name,
            :class:`~distillkit_bench.train.StageMeasurement`; ``stage2`` only where the recipe has
            one) and ``restore``, None for no images.

    Raises:
        DistillkitError: Weights or training images are missing, or a loss is not finite.
    """
    recipe = resolved.recipe
    crop_size = recipe.data.crop_size
    stages = {}
    models = None
    for prepared in prepare_stages(resolved):
        if models is None:
            # The first stage has all the models that any later one has.
            models = {n: asdict(cost) for n, cost in count_models(prepared, crop_size).items()}
        measurement = measure_stage(
            prepared, crop_size, warmup=warmup, steps=steps, breakdown=breakdown
        )
        stages[prepared.name] = asdict(measurement)
    # The last stage has the student that restores.
    restore = None
    if images:
        restore = _measure_restoring(prepared, crop_size, images)
    device = prepared.device
    dtype = DTYPES[recipe.training.mixed_precision]
    return {
        "recipe": recipe.name,
        "sha256": hashlib.sha256(resolved.to_toml().encode()).hexdigest(),
        "crop": crop_size,
        "batch": recipe.data.batch_size,
        "machine": describe_machine(device),
        "ceilings": {"flops": measure_matmul(device, dtype), "copy": measure_copy(device)},
        "models": models,
        "stages": stages,
        "restore": restore,
    }


def _measure_restoring(prepared: PreparedStage, crop_size: int, images: int) -> dict[str, float]:
    """Measure how fast the student restores images that enlarge to a training crop.

    Returns:
        ``side`` of the inputs in pixels, ``images_per_s``, ``megapixels_per_s`` of the results and
            ``peak_memory`` in bytes.
    """
    device = prepared.device
    restorer = Restorer(prepared.student, device)
    tradeoff = 0.5 if prepared.student.variant else None
    side = crop_size // restorer.scale
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    restorer(image, tradeoff)
    reset_peak_memory(device)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(images):
        restorer(image, tradeoff)
    seconds = (time.perf_counter() - start) / images
    megapixels = (side * restorer.scale) ** 2 / 1e6
    return {
        "side": side,
        "images_per_s": 1 / seconds,
        "megapixels_per_s": megapixels / seconds,
        "peak_memory": read_peak_memory(device),
    }
