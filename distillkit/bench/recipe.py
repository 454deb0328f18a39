"""A recipe's training and restoring, measured on this machine."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from distillkit.bench.device import (
    copy_bandwidth,
    machine,
    matrix_ceiling,
    peak,
    restart_peak,
    synchronize,
)
from distillkit.bench.subject import Subject
from distillkit.inference.restorer import Restorer
from distillkit.recipe.load import ResolvedRecipe

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


def bench(
    resolved: ResolvedRecipe, *, steps: int, warmup: int = 2, images: int = 5, look: bool = True
) -> dict[str, Any]:
    """Measure ``steps`` steps of each stage and the restoration of ``images`` images of the size of a training crop.

    Args:
        warmup: steps before them. look: make three more, for time by part, passes and FLOPs; else these are 0.

    Returns:
        plain data: ``recipe``, ``sha256`` of the resolved recipe, ``crop``, ``batch``, ``machine``, ``ceilings`` (``flops`` and
        ``copy``, each per second, measured now), ``stages`` (by name, :class:`~distillkit.bench.train.Measured`; ``stage2`` only
        where the recipe has one) and ``restore``, None for no images.

    Raises:
        DistillkitError: weights or training images are missing, or a loss is not finite.
    """
    subject = Subject(resolved)
    data, device = subject.recipe.data, subject.device
    dtype = DTYPES[subject.recipe.training.mixed_precision]
    ceilings = {"flops": matrix_ceiling(device, dtype), "copy": copy_bandwidth(device)}
    stages = {
        s.name: asdict(subject.measure(s, data.crop_size, warmup=warmup, steps=steps, look=look))
        for s in subject.stages()
    }
    student = subject.student()
    side, tradeoff = (
        data.crop_size // subject.models.student.scale,
        0.5 if student.variant else None,
    )
    return {
        "recipe": subject.recipe.name,
        "sha256": hashlib.sha256(resolved.to_toml().encode()).hexdigest(),
        "crop": data.crop_size,
        "batch": data.batch_size,
        "machine": machine(device),
        "ceilings": ceilings,
        "stages": stages,
        "restore": _restoring(Restorer(student, device), side, tradeoff, images)
        if images
        else None,
    }


def _restoring(
    restorer: Restorer, side: int, tradeoff: float | None, images: int
) -> dict[str, float]:
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
