"""Measure the training and restoring of a recipe on this machine."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from distillkit.bench.device import (
    describe_machine,
    measure_copy,
    measure_matmul,
    read_peak_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit.bench.subject import Subject
from distillkit.inference.restorer import Restorer
from distillkit.recipe.load import ResolvedRecipe

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


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
            ``ceilings`` (``flops`` and ``copy``, each per second, measured now), ``stages`` (by
            name, :class:`~distillkit.bench.train.StageMeasurement`; ``stage2`` only where the
            recipe has one) and ``restore``, None for no images.

    Raises:
        DistillkitError: Weights or training images are missing, or a loss is not finite.
    """
    subject = Subject(resolved)
    data = subject.recipe.data
    dtype = DTYPES[subject.recipe.training.mixed_precision]
    ceilings = {
        "flops": measure_matmul(subject.device, dtype),
        "copy": measure_copy(subject.device),
    }
    stages = {}
    for stage in subject.stages():
        measurement = subject.measure(
            stage, data.crop_size, warmup=warmup, steps=steps, breakdown=breakdown
        )
        stages[stage.name] = asdict(measurement)
    restore = None
    if images:
        restore = _measure_restoring(subject, images)
    return {
        "recipe": subject.recipe.name,
        "sha256": hashlib.sha256(resolved.to_toml().encode()).hexdigest(),
        "crop": data.crop_size,
        "batch": data.batch_size,
        "machine": describe_machine(subject.device),
        "ceilings": ceilings,
        "stages": stages,
        "restore": restore,
    }


def _measure_restoring(subject: Subject, images: int) -> dict[str, float]:
    """Measure how fast the student restores images that enlarge to a training crop.

    Returns:
        ``side`` of the inputs in pixels, ``images_per_s``, ``megapixels_per_s`` of the results and
            ``peak_memory`` in bytes.
    """
    student = subject.build_student()
    restorer = Restorer(student, subject.device)
    tradeoff = 0.5 if student.variant else None
    crop = subject.recipe.data.crop_size
    side = crop // restorer.scale
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    restorer(image, tradeoff)
    reset_peak_memory(subject.device)
    synchronize(subject.device)
    start = time.perf_counter()
    for _ in range(images):
        restorer(image, tradeoff)
    seconds = (time.perf_counter() - start) / images
    megapixels = (side * restorer.scale) ** 2 / 1e6
    return {
        "side": side,
        "images_per_s": 1 / seconds,
        "megapixels_per_s": megapixels / seconds,
        "peak_memory": read_peak_memory(subject.device),
    }
