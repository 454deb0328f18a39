"""Measuring the training steps of a recipe's stages, through the very loop that trains them."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils import flop_counter

from distillkit.bench.device import held, peak, restart_peak, synchronize
from distillkit.bench.parts import PartClock, watched
from distillkit.data.pairs import PairedBatches
from distillkit.recipe.schema import Recipe
from distillkit.training.checkpoint import Checkpoints
from distillkit.training.loop import Stage, Trainer
from distillkit.training.tracking import RunLog

NEVER = 10**9
SPLIT_STEPS = 2
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        flop_counter.sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""What torch's own FLOP counter leaves out; functions of shapes."""


@dataclass(frozen=True)
class Measured:
    """The steps of one stage."""

    ms: float
    """Median milliseconds of a step."""
    ms_all: list[float]
    cpu_ms: float
    """Median milliseconds that this process's threads computed in a step: on a CPU that others use too, the steadier figure."""
    images_per_s: float
    loader_wait: float
    """Share of the time spent waiting for batches."""
    parts: dict[str, float]
    """Share of a step's time by part."""
    passes: dict[str, float]
    """Passes of each network, and of the codecs, that one image takes."""
    flops: int
    """Of a step: multiplications and additions of matrix products, convolutions and attention, recomputation included. Operations
    inside compiled code are not seen."""
    peak_memory: int
    """Bytes, during the timed steps."""
    held_before: int
    """Bytes, before the first step."""
    losses: list[float]
    """Of every step that was made, warm-up included."""


class _Watch(RunLog):
    """In the place of a run's log: times the steps, then divides a few by part, then counts one step's FLOPs."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        stage: Stage,
        batches: PairedBatches,
        timed: range,
        look: bool,
    ) -> None:
        super().__init__(folder / "metrics.jsonl", accelerator, lambda *_, **__: None)
        self._timed, self._divided = timed, timed.stop + SPLIT_STEPS
        self.steps = self._divided + 1 if look else timed.stop
        self._subject, self._batches, self._device = stage, batches, accelerator.device
        self._clock = PartClock(self._device)
        self._flops = flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._losses: list[float] = []
        self._waited, self._memory = 0.0, 0

    def begin(self, stage: str, done: int, total: int) -> None:
        self._made, self._stage, self._watching = 0, stage, ExitStack()
        self._held_before = held(self._device)
        self._next(0)

    def advance(self) -> None:
        synchronize(self._device)
        if self._made in self._timed:
            self._seconds.append(time.perf_counter() - self._began)
            self._cpu_seconds.append(time.process_time() - self._cpu_began)
        self._made += 1
        self._next(self._made)

    def _next(self, step: int) -> None:
        if step == self._timed.start:
            restart_peak(self._device)
            self._waited = -self._batches.wait_seconds
        elif step == self._timed.stop:
            self._memory = peak(self._device)
            self._waited += self._batches.wait_seconds
            self._clock = PartClock(self._device)
            self._watching.enter_context(watched(self._subject, self._accelerator, self._clock))
        elif self._timed.stop < step < self._divided:
            self._clock.between("data")
        elif step == self._divided:
            self._clock.between("data")
            self._watching.close()
            self._watching.enter_context(self._flops)
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self._watching.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._losses.append(values.get("loss", math.nan))

    def measured(self, images: int) -> Measured:
        """``images``: crops of one step."""
        seconds, divided = (
            statistics.median(self._seconds),
            sum(self._clock.seconds.values()) or 1.0,
        )
        return Measured(
            ms=1000 * seconds,
            ms_all=[round(1000 * s, 3) for s in self._seconds],
            cpu_ms=1000 * statistics.median(self._cpu_seconds),
            images_per_s=images / seconds,
            loader_wait=self._waited / sum(self._seconds),
            parts={part: s / divided for part, s in self._clock.seconds.items()},
            passes={name: n / SPLIT_STEPS / images for name, n in self._clock.passes.items()},
            flops=self._flops.get_total_flops(),
            peak_memory=self._memory,
            held_before=self._held_before,
            losses=self._losses,
        )


def measure(
    stage: Stage,
    recipe: Recipe,
    batches: PairedBatches,
    accelerator: Accelerator,
    *,
    warmup: int,
    steps: int,
    look: bool = True,
) -> Measured:
    """Train ``stage`` for ``warmup`` steps, ``steps`` that are timed, and with ``look`` three more to see parts, passes and FLOPs.

    Raises:
        DistillkitError: the losses are not finite.
    """
    options = recipe.training.model_copy(
        update={"logging_steps": 1, "checkpointing_steps": NEVER, "validation_steps": 0}
    )
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        watch = _Watch(
            Path(folder), accelerator, stage, batches, range(warmup, warmup + steps), look
        )
        checkpoints = Checkpoints(Path(folder) / "checkpoints", 1)
        timed = replace(stage, steps=watch.steps, offset=0)
        Trainer(timed, batches, options, recipe.seed, accelerator, checkpoints, watch).train()
    return watch.measured(recipe.data.batch_size * recipe.training.gradient_accumulation_steps)
