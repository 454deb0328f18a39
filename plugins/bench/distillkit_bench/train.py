"""Measure training steps of a recipe's stages, in the training loop of a run."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import flop_counter

from distillkit import PreparedStage, TrainingBatches, progress_bar
from distillkit_bench.device import (
    read_peak_memory,
    read_used_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit_bench.phases import PhaseClock, timed_phases

if TYPE_CHECKING:
    from tqdm import tqdm

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
    """Losses of every step, warm-up included."""


class _StepMeter:
    """Times steps, then divides some into phases, then counts FLOPs.

    Args:
        prepared: The stage that is trained.
        batches: Its batches.
        timed: The numbers of the timed steps.
        counters: Holds the clock of phases and the counter of FLOPs while they are in use.
        bar: Shows the steps.
    """

    def __init__(
        self,
        prepared: PreparedStage,
        batches: TrainingBatches,
        timed: range,
        counters: ExitStack,
        bar: tqdm[Any],
    ) -> None:
        self._prepared = prepared
        self._batches = batches
        self._timed = timed
        self._counters = counters
        self._bar = bar
        self._device = prepared.device
        self._clock = PhaseClock(self._device)
        self._flops = make_flop_counter()
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._waited = 0.0
        self._peak_memory = 0
        self._memory_before = 0
        self._start = 0.0
        self._cpu_start = 0.0

    def between_steps(self, steps_made: int) -> None:
        """Take the time of the step that ends, and get ready for the next."""
        synchronize(self._device)
        if steps_made == 0:
            self._memory_before = read_used_memory(self._device)
        elif steps_made - 1 in self._timed:
            self._seconds.append(time.perf_counter() - self._start)
            self._cpu_seconds.append(time.process_time() - self._cpu_start)
        self._bar.update(steps_made - self._bar.n)
        self._prepare_step(steps_made)
        # Last, so that none of the above counts.
        self._start = time.perf_counter()
        self._cpu_start = time.process_time()

    def _prepare_step(self, step: int) -> None:
        flops_step = self._timed.stop + PHASE_STEPS
        if step == self._timed.start:
            reset_peak_memory(self._device)
            self._waited = -self._batches.wait_seconds
        elif step == self._timed.stop:
            self._peak_memory = read_peak_memory(self._device)
            self._waited += self._batches.wait_seconds
            # A new one: the time before does not count.
            self._clock = PhaseClock(self._device)
            self._counters.enter_context(timed_phases(self._prepared, self._clock))
        elif self._timed.stop < step < flops_step:
            self._clock.set_outermost("data")
        elif step == flops_step:
            self._clock.set_outermost("data")
            self._counters.close()
            self._counters.enter_context(self._flops)

    def summarize(self, images: int, losses: list[float]) -> StageMeasurement:
        """Summarize the steps.

        Args:
            images: Crops of one step.
            losses: The losses of every step.
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
            losses=losses,
        )


def measure_stage(
    prepared: PreparedStage,
    crop_size: int,
    *,
    warmup: int,
    steps: int,
    breakdown: bool = True,
) -> StageMeasurement:
    """Train a stage for a few steps and measure them.

    Args:
        prepared: The stage.
        crop_size: Side of the crops in pixels.
        warmup: Steps before the timed ones.
        steps: Timed steps.
        breakdown: Make three more steps, for time by phase, NFE and FLOPs.

    Raises:
        DistillkitError: The losses are not finite.
    """
    recipe = prepared.resolved.recipe
    batches = prepared.open_batches(crop_size)
    timed = range(warmup, warmup + steps)
    all_steps = timed.stop
    if breakdown:
        all_steps += BREAKDOWN_STEPS
    with ExitStack() as counters:
        description = f"{prepared.name} at {crop_size}"
        bar = counters.enter_context(progress_bar(total=all_steps, unit="step", desc=description))
        meter = _StepMeter(prepared, batches, timed, counters, bar)
        losses = prepared.train(batches, all_steps, meter.between_steps)
    images = recipe.data.batch_size * recipe.training.gradient_accumulation_steps
    return meter.summarize(images, losses)
