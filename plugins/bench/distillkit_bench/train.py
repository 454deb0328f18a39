"""Measure training steps of a recipe's stages, in the training loop of a run."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils import flop_counter

from distillkit.bench.device import (
    read_peak_memory,
    read_used_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit.bench.phases import PhaseClock, timed_phases
from distillkit.data.pairs import PairedBatches
from distillkit.recipe.schema import Recipe
from distillkit.training.checkpoint import Checkpoints
from distillkit.training.loop import Stage, Trainer
from distillkit.training.tracking import RunLog

NEVER = 10**9
PHASE_STEPS = 2
"""Steps that are divided into phases."""
BREAKDOWN_STEPS = PHASE_STEPS + 1
"""These, and one more whose FLOPs are counted."""


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_flop_count(q, k, v)


def _attention_backward_flops(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_backward_flop_count(gradient, q, k, v)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""Operations that torch's own FLOP counter leaves out; functions of shapes."""


class _NoModules:
    """Replaces the module tracker of torch's FLOP counter: only totals are read here.

    The tracker fails inside ``torch.autograd.grad``, which the per-term backward pass uses.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


def make_flop_counter() -> flop_counter.FlopCounterMode:
    """Make a counter of all FLOPs in its context, attention on a CPU included."""
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


@dataclass(frozen=True)
class StageMeasurement:
    """The measured steps of one stage."""

    ms: float
    """Median milliseconds of a step."""
    ms_all: list[float]
    cpu_ms: float
    """Median milliseconds that this process's threads computed in a step.

    The steadier figure on a CPU that others use, too.
    """
    images_per_s: float
    loader_wait: float
    """Share of the time spent waiting for batches."""
    phases: dict[str, float]
    """Share of a step's time by phase."""
    nfe: dict[str, float]
    """Evaluations of each network, and of the codecs, per image."""
    flops: int
    """FLOPs of a step.

    Multiplications and additions of matrix products, convolutions and attention, gradient
    checkpointing included. Operations inside compiled code are not counted.
    """
    peak_memory: int
    """Bytes, during the timed steps."""
    memory_before: int
    """Bytes, before the first step."""
    losses: list[float]
    """Of every step, warm-up included."""


class _MeasuringLog(RunLog):
    """Replaces the log of a run: times steps, then divides some, then counts FLOPs.

    Args:
        folder: A temporary folder.
        accelerator: Of the run.
        stage: The stage that is trained.
        batches: Its batches.
        timed: The numbers of the timed steps.
        breakdown: Divide steps into phases and count FLOPs after them.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        stage: Stage,
        batches: PairedBatches,
        timed: range,
        breakdown: bool,
    ) -> None:
        super().__init__(folder / "metrics.jsonl", accelerator, _observe_nothing)
        self.steps = timed.stop
        """All steps that the stage has to make."""
        if breakdown:
            self.steps += BREAKDOWN_STEPS
        self._timed = timed
        self._measured_stage = stage
        self._batches = batches
        self._device = accelerator.device
        self._clock = PhaseClock(self._device)
        self._flops = make_flop_counter()
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._losses: list[float] = []
        self._waited = 0.0
        self._peak_memory = 0

    def begin(self, stage: str, done: int, total: int) -> None:
        self._step = 0
        self._counters = ExitStack()
        self._memory_before = read_used_memory(self._device)
        self._begin_step()

    def advance(self) -> None:
        synchronize(self._device)
        if self._step in self._timed:
            self._seconds.append(time.perf_counter() - self._start)
            self._cpu_seconds.append(time.process_time() - self._cpu_start)
        self._step += 1
        self._begin_step()

    def _begin_step(self) -> None:
        flops_step = self._timed.stop + PHASE_STEPS
        if self._step == self._timed.start:
            reset_peak_memory(self._device)
            self._waited = -self._batches.wait_seconds
        elif self._step == self._timed.stop:
            self._peak_memory = read_peak_memory(self._device)
            self._waited += self._batches.wait_seconds
            # A new one: the time before does not count.
            self._clock = PhaseClock(self._device)
            phases = timed_phases(self._measured_stage, self._accelerator, self._clock)
            self._counters.enter_context(phases)
        elif self._timed.stop < self._step < flops_step:
            self._clock.set_outermost("data")
        elif self._step == flops_step:
            self._clock.set_outermost("data")
            self._counters.close()
            self._counters.enter_context(self._flops)
        # Last, so that none of the above counts.
        self._start = time.perf_counter()
        self._cpu_start = time.process_time()

    def end(self) -> None:
        self._counters.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._losses.append(values.get("loss", math.nan))

    def summarize(self, images: int) -> StageMeasurement:
        """Summarize the steps.

        Args:
            images: Crops of one step.
        """
        seconds = statistics.median(self._seconds)
        all_phases = sum(self._clock.seconds.values()) or 1.0
        phases: dict[str, float] = {}
        for phase, phase_seconds in self._clock.seconds.items():
            phases[phase] = phase_seconds / all_phases
        return StageMeasurement(
            ms=1000 * seconds,
            ms_all=[round(1000 * s, 3) for s in self._seconds],
            cpu_ms=1000 * statistics.median(self._cpu_seconds),
            images_per_s=images / seconds,
            loader_wait=self._waited / sum(self._seconds),
            phases=phases,
            nfe={name: n / PHASE_STEPS / images for name, n in self._clock.nfe.items()},
            flops=self._flops.get_total_flops(),
            peak_memory=self._peak_memory,
            memory_before=self._memory_before,
            losses=self._losses,
        )


def _observe_nothing(*args: Any, **kwargs: Any) -> None:
    """Leave plugins out of a measurement."""


def measure_stage(
    stage: Stage,
    recipe: Recipe,
    batches: PairedBatches,
    accelerator: Accelerator,
    *,
    warmup: int,
    steps: int,
    breakdown: bool = True,
) -> StageMeasurement:
    """Train a stage for a few steps and measure them.

    Args:
        stage: The stage.
        recipe: Its recipe.
        batches: Its batches.
        accelerator: Of the run.
        warmup: Steps before the timed ones.
        steps: Timed steps.
        breakdown: Make three more steps, for time by phase, NFE and FLOPs.

    Raises:
        DistillkitError: The losses are not finite.
    """
    options = recipe.training.model_copy(
        update={"logging_steps": 1, "checkpointing_steps": NEVER, "validation_steps": 0}
    )
    timed = range(warmup, warmup + steps)
    with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
        folder = Path(name)
        log = _MeasuringLog(folder, accelerator, stage, batches, timed, breakdown)
        checkpoints = Checkpoints(folder / "checkpoints", 1)
        short_stage = replace(stage, steps=log.steps, offset=0)
        trainer = Trainer(short_stage, batches, options, recipe.seed, accelerator, checkpoints, log)
        trainer.train()
    return log.summarize(recipe.data.batch_size * recipe.training.gradient_accumulation_steps)
