"""The training loop, the same for both stages: step, clip, update, average, log, checkpoint."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distillkit.adapters.adapters import Adapter
from distillkit.data.pairs import Batch, PairedBatches
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.captions import captioned
from distillkit.errors import DistillkitError, Interrupted
from distillkit.files.weights import load_tensors
from distillkit.recipe.schema import Training
from distillkit.training.blocks import compile_blocks, gradient_checkpointing, recast_weights
from distillkit.training.checkpoint import Checkpoint, Checkpoints
from distillkit.training.step import Stage2Step, Step, Terms
from distillkit.training.tracking import RunLog


@dataclass(frozen=True)
class Stage:
    """One of the two distillations."""

    name: str
    module: Step
    steps: int
    learning_rate: float
    offset: int = 0
    """Global steps before this stage."""
    models: Sequence[torch.nn.Module] = ()
    """Everything whose passes may carry gradient: what ``training.gradient_checkpointing`` applies to."""
    adapter: Adapter | None = None
    """The adapter that is trained, if it is one."""

    def lr_at(self, step: int, options: Training) -> float:
        """Linear warm-up, constant, linear decay over the last ``lr_decay_fraction``: a function of the step alone."""
        warmup = min((step + 1) / options.lr_warmup_steps, 1.0) if options.lr_warmup_steps else 1.0
        decaying = options.lr_decay_fraction * self.steps
        return (
            self.learning_rate
            * warmup
            * (min((self.steps - step) / decaying, 1.0) if decaying else 1.0)
        )


class MovingAverage:
    """Exponential moving average of the trained tensors; with decay 0 it follows them exactly."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self._tensors, self._decay = tensors, decay
        self.values = {k: v.detach().clone() for k, v in tensors.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the tensors after ``step``. Early steps count more: the decay rises as (1 + step) / (10 + step)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._tensors.items():
            self.values[name].copy_(value) if decay == 0 else self.values[name].lerp_(
                value, 1 - decay
            )

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The tensors hold their average inside the block."""
        own = {k: v.detach().clone() for k, v in self._tensors.items()}
        load_tensors(self._tensors, self.values, "moving average")
        try:
            yield
        finally:
            load_tensors(self._tensors, own, "trained tensors")


class Trainer:
    """Trains the stages of one run.

    Args:
        seed: of the recipe. sample: called with the global step every ``validation_steps`` steps, the average swapped in.
    """

    def __init__(
        self,
        options: Training,
        seed: int,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        log: RunLog,
        sample: Callable[[str, int], None] | None = None,
    ) -> None:
        self.options, self.seed, self.accelerator = options, seed, accelerator
        self.checkpoints, self.log, self._sample = checkpoints, log, sample
        world = accelerator.num_processes
        self.parts = range(
            accelerator.process_index, options.gradient_accumulation_steps * world, world
        )
        """Which of each step's batches are this process's."""
        self.fused = accelerator.device.type == "cuda"
        """A fused optimizer skips a non-finite step by itself; that it did is then read one step later, so that nobody waits."""
        self._failures = 0

    def train(self, stage: Stage, batches: PairedBatches, resume: Checkpoint | None = None) -> None:
        """Train ``stage`` from its start, or from ``resume``, to its end. Afterwards the trained tensors hold their moving average.

        Raises:
            Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
            DistillkitError: ``max_nonfinite_steps`` non-finite losses in a row.
        """
        options, tensors = self.options, stage.module.tensors()
        average = MovingAverage(tensors, options.ema_decay)
        optimizer = torch.optim.AdamW(
            list(tensors.values()),
            lr=stage.learning_rate,
            betas=options.adam_betas,
            weight_decay=options.adam_weight_decay,
            fused=self.fused,
        )
        done = 0
        if resume is not None:
            done = resume.step - stage.offset
            load_tensors(tensors, resume.tensors(), resume.path)
            load_tensors(average.values, resume.average(), resume.path)
            optimizer.load_state_dict(
                optimizer.state_dict() | {"state": resume.optimizer()["state"]}
            )  # settings: the recipe's
        if isinstance(stage.module, Stage2Step):
            stage.module.average = average.swapped_in if options.ema_decay else nullcontext
        module = self.accelerator.prepare(stage.module)

        self.log.begin(stage.name, done, stage.steps)
        meter, pending = _Meter(), deque[_Made]()
        self._failures = 0
        stream = batches.iterate(stage.name, done, stage.steps, self.parts)
        try:
            with (
                _signals() as caught,
                compile_blocks(stage.models if options.compile else ()),
                gradient_checkpointing(
                    stage.models if options.gradient_checkpointing else (), stage.adapter
                ),
                recast_weights(stage.models if options.recast_weights else ()),
            ):
                for step in range(done, stage.steps):
                    group = list(islice(stream, len(self.parts)))
                    for parameters in optimizer.param_groups:
                        parameters["lr"] = stage.lr_at(step, options)
                    terms = self._backward(module, stage, group, step)
                    norm = self.accelerator.clip_grad_norm_(
                        list(tensors.values()), options.max_grad_norm
                    )
                    verdict = self._verdict(terms["loss"] + norm, bool(caught))
                    if self.fused:
                        optimizer.found_inf = verdict[0]  # type: ignore[attr-defined]  # the optimizer's own name for it
                    if self.fused or not verdict[0]:
                        optimizer.step()
                        average.update(step)
                    meter.add(terms | {"grad_norm": norm}, verdict[0] == 0)
                    optimizer.zero_grad()
                    self.log.advance()
                    pending.append(_Made(step, verdict, group, terms))
                    due = step + 1 == stage.steps or (step + 1) % options.checkpointing_steps == 0
                    stop = self._settle(stage, pending, 1 if self.fused and not due else 0)
                    self._after(
                        stage,
                        step + 1,
                        meter,
                        average,
                        optimizer,
                        batches,
                        (caught or ["a signal"])[0] if stop else None,
                    )
        finally:
            self.log.end()
        load_tensors(tensors, average.values, "moving average")

    def _backward(
        self, module: torch.nn.Module, stage: Stage, group: Sequence[Batch], step: int
    ) -> Terms:
        """Forward and backward over the batches of one optimizer step; their mean terms, detached, and the sum as ``loss``."""
        total: Terms = {}
        for part, batch in zip(self.parts, group, strict=True):
            stage.module.part = part
            seed = keyed_generator(self.seed, stage.name, step, part, "global").initial_seed()
            torch.manual_seed(seed)  # for plugins that draw from torch's own generator
            with nullcontext() if part == self.parts[-1] else self.accelerator.no_sync(module):
                with captioned(batch.captions):
                    terms = module(batch, step)
                loss = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(loss / len(group))
            for name, value in (terms | {"loss": loss}).items():
                total[name] = total.get(name, 0) + value.detach() / len(group)
        return total

    def _verdict(self, value: Tensor, stop: bool) -> Tensor:
        """(2,): in how many processes ``value`` is not finite, and how many are to ``stop``. All skip and stop at the same step."""
        against = torch.stack([(~torch.isfinite(value)).float(), torch.full_like(value, stop)])
        return self.accelerator.reduce(against, "sum")

    def _settle(self, stage: Stage, pending: deque[_Made], keep: int) -> bool:
        """Read the verdicts on all but the last ``keep`` steps, or on all if one of them says to stop; whether one does."""
        stop = False
        while len(pending) > (0 if stop else keep):
            made = pending.popleft()
            nonfinite, stops = made.verdict.tolist()
            stop |= bool(stops)
            self._failures = self._failures + 1 if nonfinite else 0
            if nonfinite:
                self._write_down(stage, made)
        return stop

    def _write_down(self, stage: Stage, made: _Made) -> None:
        ids = [i for batch in made.group for i in batch.ids]
        self.log.nonfinite(
            stage.offset + made.step + 1, ids, {k: float(v) for k, v in made.terms.items()}
        )
        if self._failures >= self.options.max_nonfinite_steps:
            raise DistillkitError(
                f"{stage.name} step {made.step + 1} - {self._failures} non-finite losses in a row; the batches and terms are in "
                f"{self.log.nonfinite_path}; lower the learning rate or max_grad_norm, then --resume from the last checkpoint"
            )

    def _after(
        self,
        stage: Stage,
        made: int,
        meter: _Meter,
        average: MovingAverage,
        optimizer: torch.optim.Optimizer,
        batches: PairedBatches,
        stopped_by: str | None,
    ) -> None:
        """What is due after ``made`` steps of the stage: a log line, a sample grid, a checkpoint, the end."""
        options, over, at = self.options, made == stage.steps, stage.offset + made
        if made % options.logging_steps == 0 or over:
            self.log.write(
                at,
                meter.read(stage.lr_at(made - 1, options), batches.wait_seconds)
                | stage.module.cast.cache.news(),
            )
        if (
            self._sample is not None
            and options.validation_steps
            and (made % options.validation_steps == 0 or over)
        ):
            with average.swapped_in():
                self._sample(stage.name, at)
        if made % options.checkpointing_steps == 0 or over or stopped_by:
            if self.accelerator.is_main_process:
                path = self.checkpoints.save(
                    stage.name,
                    at,
                    final=over,
                    tensors=stage.module.tensors(),
                    average=average.values,
                    optimizer=optimizer.state_dict(),
                )
                self.log.saved(path, at)
            self.accelerator.wait_for_everyone()
        if stopped_by and not over:
            raise Interrupted(
                f"{stopped_by}: stopped after {stage.name} step {made}, checkpoint written; --resume goes on from there"
            )


@dataclass(frozen=True)
class _Made:
    """A step whose verdict has not been read."""

    step: int
    verdict: Tensor
    group: Sequence[Batch]
    terms: Terms


class _Meter:
    """Means of the terms of finite steps since they were last read; no device is waited for before that."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._start_anew()

    def _start_anew(self) -> None:
        self._sums: Terms = {}
        self._steps, self._clock = 0, time.monotonic()

    def add(self, terms: Terms, finite: Tensor) -> None:
        self._steps += 1
        for name, value in (terms | {"": torch.ones_like(finite, dtype=torch.float32)}).items():
            self._sums[name] = self._sums.get(name, 0) + torch.where(finite, value.detach(), 0)

    def read(self, lr: float, waited: float) -> dict[str, float]:
        """Mean terms (none without a finite step), learning rate, seconds a step, the share of them spent waiting; starts anew."""
        elapsed = time.monotonic() - self._clock
        sums = {name: float(value) for name, value in self._sums.items()}
        finite = sums.pop("")
        values = {name: value / finite for name, value in sums.items()} if finite else {}
        values |= {
            "lr": lr,
            "seconds": elapsed / self._steps,
            "loader_wait": (waited - self._waited) / max(elapsed, 1e-9),
        }
        self._waited = waited
        self._start_anew()
        return values


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one of either kind acts at once."""
    caught: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        signal.signal(number, former[number])

    former: dict[int, Any] = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        for s in former:
            signal.signal(s, note)
    except ValueError:  # not the main thread: signals are somebody else's business
        former = {}
    try:
        yield caught
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)
