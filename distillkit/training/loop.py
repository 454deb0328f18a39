"""The training loop, the same for both stages: step, clip, update, average, log, checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.data.batches import Batch, TrainingBatches
from distillkit.data.seeds import keyed_generator
from distillkit.errors import DistillkitError, Interrupted
from distillkit.files.weights import load_tensors
from distillkit.objectives.reconstruction import Losses
from distillkit.recipe.schema import TrainingConfig
from distillkit.training.blocks import compile_blocks, gradient_checkpointing, recast_weights
from distillkit.training.checkpoint import Checkpoint, Checkpoints
from distillkit.training.critics import find_failures
from distillkit.training.step import Stage2Step, Step
from distillkit.training.tracking import RunLog

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, by ``training.mixed_precision``."""


@dataclass(frozen=True)
class Stage:
    """One of the two distillations."""

    name: str
    module: Step
    steps: int
    learning_rate: float
    offset: int = 0
    """Global steps before this stage."""
    models: Sequence[nn.Module] = ()
    """Models whose passes may carry gradient: their blocks are checkpointed, recast or compiled."""
    adapter: Adapter | None = None
    """The adapter that is trained, if it is one."""

    def lr_at(self, step: int, options: TrainingConfig) -> float:
        """Compute the learning rate of a step, a function of the step alone.

        It warms up linearly, stays constant, and decays linearly over the last
        ``lr_decay_fraction`` of the stage.
        """
        lr = self.learning_rate
        if options.lr_warmup_steps:
            lr *= min((step + 1) / options.lr_warmup_steps, 1.0)
        decay_steps = options.lr_decay_fraction * self.steps
        if decay_steps:
            lr *= min((self.steps - step) / decay_steps, 1.0)
        return lr


class MovingAverage:
    """Exponential moving average of the trained tensors; with decay 0 it follows them exactly."""

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self._tensors = tensors
        self._decay = decay
        self.values = _copies(tensors)

    @torch.no_grad()
    def update(self, step: int, was_made: Tensor) -> None:
        """Add the tensors after ``step`` to the average.

        The decay rises as (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage:
        the first average is not held to the tensors before training.

        Args:
            step: Its number in the stage.
            was_made: A boolean, (): False for a skipped step, which leaves the average as it is.
                A tensor, because reading it would wait for the device.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weight = (1 - decay) * was_made
        for name, value in self._tensors.items():
            self.values[name].lerp_(value, weight)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the tensors hold their average inside the block."""
        current = _copies(self._tensors)
        load_tensors(self._tensors, self.values, "moving average")
        try:
            yield
        finally:
            load_tensors(self._tensors, current, "trained tensors")


@dataclass(frozen=True)
class _UnreadStep:
    """A step whose flags have not been copied from the device yet."""

    step: int
    flags: Tensor
    """(3,): how many processes have a non-finite loss or gradient, how many a non-finite loss, and
    how many received a signal to stop."""
    batches: Sequence[Batch]
    terms: Losses


@dataclass
class Trainer:
    """Trains one stage of a run."""

    stage: Stage
    batches: TrainingBatches
    options: TrainingConfig
    """The recipe's ``[training]`` table."""
    seed: int
    """The recipe's seed."""
    accelerator: Accelerator
    checkpoints: Checkpoints
    log: RunLog
    sample: Callable[[str, int], None] | None = None
    """Called every ``validation_steps`` steps with the stage's name and the global step, while the
    trained tensors hold their moving average."""

    def __post_init__(self) -> None:
        processes = self.accelerator.num_processes
        # The numbers of this process's micro-batches within each step.
        self._micro_batches = range(
            self.accelerator.process_index,
            self.options.gradient_accumulation_steps * processes,
            processes,
        )
        # A fused optimizer skips a non-finite step on the device. Whether it did is read one step
        # later, so that the next step is queued without waiting for the device.
        self.fused = self.accelerator.device.type == "cuda"
        self._tensors = self.stage.module.tensors()
        self._average = MovingAverage(self._tensors, self.options.ema_decay)
        self._optimizer = torch.optim.AdamW(
            list(self._tensors.values()),
            lr=self.stage.learning_rate,
            betas=self.options.adam_betas,
            weight_decay=self.options.adam_weight_decay,
            fused=self.fused,
        )
        # Gradients of float16 would vanish: they are taken of the loss times a factor, which is
        # halved when a gradient overflows and doubled after many steps without.
        is_fp16 = self.options.mixed_precision == "fp16"
        self._scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=is_fp16)
        self._unread: deque[_UnreadStep] = deque()
        self._nonfinite_in_a_row = 0
        self._warned: set[str] = set()

    def train(self, resume: Checkpoint | None = None) -> None:
        """Train the stage to its end, from its start or from ``resume``.

        Afterwards the trained tensors hold their moving average.

        Args:
            resume: A checkpoint of this stage.

        Raises:
            Interrupted: After SIGINT or SIGTERM, once a checkpoint is written.
            DistillkitError: ``max_nonfinite_steps`` non-finite losses in a row.
        """
        stage = self.stage
        done = 0
        if resume is not None:
            self._load(resume)
            done = resume.step - stage.offset
        if isinstance(stage.module, Stage2Step) and self.options.ema_decay:
            stage.module.averaged_weights = self._average.swapped_in
        module = self.accelerator.prepare(stage.module)
        stream = self.batches.iterate(stage.name, done, stage.steps, self._micro_batches)
        self.log.begin(stage.name, done, stage.steps)
        self._meter = _Meter(self.batches.wait_seconds)
        if stage.steps == 0 and resume is None:
            # A later stage starts from the checkpoint that ends this one.
            self._save_if_due(0, stop=False)
        try:
            with _collected_signals() as signals, self._memory_settings():
                for step in range(done, stage.steps):
                    batches = list(islice(stream, len(self._micro_batches)))
                    self._make_step(module, batches, step, signals)
                    self.log.advance()
                    stop = self._read_flags(step + 1)
                    self._report(step + 1)
                    self._save_if_due(step + 1, stop)
                    if stop and step + 1 < stage.steps:
                        # Another process may have received the signal.
                        received = signals[0] if signals else "a signal"
                        raise Interrupted(
                            f"{received}: stopped after {stage.name} step {step + 1}, "
                            "checkpoint written; --resume continues from there"
                        )
        finally:
            self.log.end()
        load_tensors(self._tensors, self._average.values, "moving average")

    def _load(self, checkpoint: Checkpoint) -> None:
        """Set tensors, average, optimizer and what is counted to those of a checkpoint."""
        load_tensors(self._tensors, checkpoint.tensors(), checkpoint.path)
        load_tensors(self._average.values, checkpoint.average(), checkpoint.path)
        for name, state in checkpoint.critics().items():
            self.stage.module.critics[name].load(state)
        # The optimizer's settings stay the recipe's, which may have changed since.
        saved = checkpoint.optimizer()
        state = self._optimizer.state_dict()
        state["state"] = saved["state"]
        self._optimizer.load_state_dict(state)
        loss_scale = saved.get("loss_scale")
        # none after steps in another precision
        if loss_scale:
            self._scaler.load_state_dict(loss_scale)
        self._nonfinite_in_a_row = saved.get("nonfinite_in_a_row", 0)

    @contextmanager
    def _memory_settings(self) -> Iterator[None]:
        """Compile, checkpoint or recast the models' blocks as the recipe says."""
        models = self.stage.models
        with ExitStack() as stack:
            if self.options.compile:
                stack.enter_context(compile_blocks(models))
            if self.options.gradient_checkpointing:
                stack.enter_context(gradient_checkpointing(models, self.stage.adapter))
            if self.options.recast_weights:
                stack.enter_context(recast_weights(models))
            yield

    def _make_step(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        step: int,
        signals: Sequence[str],
    ) -> None:
        """Make one optimizer step, or skip it where any process has a non-finite gradient."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.stage.lr_at(step, self.options)
        terms = self._backward(module, batches, step)
        # The norm to clip at is that of the true gradient, not of the scaled one.
        self._scaler.unscale_(self._optimizer)
        norm = self.accelerator.clip_grad_norm_(
            list(self._tensors.values()),
            self.options.max_grad_norm,
        )
        # Only now, so that a signal received during the passes counts for this step.
        flags = self._sum_flags(terms["loss"], norm, stop=bool(signals))
        nonfinite = flags[0]
        if self.fused:
            # the name under which torch's optimizers expect this flag
            self._optimizer.found_inf = nonfinite  # type: ignore[attr-defined]
        if self.fused or not nonfinite:
            self._optimizer.step()
            self._average.update(step, nonfinite == 0)
        self._scaler.update()
        # After the student: critics learn from what it generated in this step.
        critics = self.stage.module.update_critics(step, self.accelerator)
        self._meter.add(terms | {"grad_norm": norm} | critics, nonfinite == 0)
        self._optimizer.zero_grad()
        self._unread.append(_UnreadStep(step, flags, batches, terms))

    def _backward(self, module: nn.Module, batches: Sequence[Batch], step: int) -> Losses:
        """Run forward and backward passes over the micro-batches of one optimizer step.

        Returns:
            Their mean terms, detached, and the sum of these as ``loss``.
        """
        one = torch.ones((), device=self.accelerator.device)
        self.stage.module.loss_scale = self._scaler.scale(one)
        means: Losses = {}
        for number, batch in zip(self._micro_batches, batches, strict=True):
            self.stage.module.micro_batch = number
            draws = keyed_generator(self.seed, self.stage.name, step, number, "global")
            # for plugins that draw from torch's global generator
            torch.manual_seed(draws.initial_seed())
            with ExitStack() as stack:
                if number != self._micro_batches[-1]:
                    # Processes average their gradients once a step, after the last micro-batch.
                    stack.enter_context(self.accelerator.no_sync(module))
                with self._autocast():
                    terms = module(batch, step)
                terms = {name: term.float() for name, term in terms.items()}
                loss = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(self._scaler.scale(loss / len(batches)))
            terms["loss"] = loss
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / len(batches)
        return means

    def _autocast(self) -> torch.autocast:
        """Compute in the recipe's precision, inside a context."""
        dtype = PRECISIONS.get(self.options.mixed_precision)
        is_mixed = dtype is not None
        return torch.autocast(self.accelerator.device.type, dtype, enabled=is_mixed)

    def _sum_flags(self, loss: Tensor, norm: Tensor, stop: bool) -> Tensor:
        """Count the processes of each flag: (3,), see :class:`_UnreadStep`.

        All processes see the same counts, so they skip and stop at the same step.
        """
        nonfinite = ~torch.isfinite(loss + norm)
        nonfinite_loss = ~torch.isfinite(loss)
        must_stop = torch.full_like(nonfinite, stop)
        flags = torch.stack([nonfinite, nonfinite_loss, must_stop])
        return self.accelerator.reduce(flags.float(), "sum")

    def _read_flags(self, steps_made: int) -> bool:
        """Read the flags of the steps made; return whether one of them says to stop.

        A fused optimizer's newest step is left for the next time, unless a checkpoint follows.
        """
        saving = self._is_due(steps_made, self.options.checkpointing_steps)
        left_unread = int(self.fused and not saving)
        stop = False
        while len(self._unread) > left_unread:
            oldest = self._unread.popleft()
            nonfinite, nonfinite_loss, must_stop = oldest.flags.tolist()
            if must_stop:
                stop = True
                left_unread = 0
            if not nonfinite:
                self._nonfinite_in_a_row = 0
            elif nonfinite_loss or self._scaler.get_scale() <= 1:
                # Otherwise only the scaled gradient has overflowed, and the scaler has lowered the
                # loss scale. Without loss scaling the scale is 1.
                self._record_nonfinite(oldest)
        return stop

    def _record_nonfinite(self, skipped: _UnreadStep) -> None:
        """Log a skipped step's images and terms; raise after too many in a row."""
        self.log.write_nonfinite(
            self.stage.offset + skipped.step + 1,
            [image for batch in skipped.batches for image in batch.ids],
            {name: float(value) for name, value in skipped.terms.items()},
        )
        self._nonfinite_in_a_row += 1
        if self._nonfinite_in_a_row >= self.options.max_nonfinite_steps:
            raise DistillkitError(
                f"{self.stage.name} step {skipped.step + 1} - {self._nonfinite_in_a_row} "
                "non-finite losses in a row; the batches and terms are in "
                f"{self.log.nonfinite_path}; lower the learning rate or max_grad_norm, "
                "then --resume from the last checkpoint"
            )

    def _is_due(self, steps_made: int, every: int) -> bool:
        """Whether ``steps_made`` is a multiple of ``every`` or the stage's last; 0: never."""
        if not every:
            return False
        return steps_made % every == 0 or steps_made == self.stage.steps

    def _report(self, steps_made: int) -> None:
        """Write a log line and a sample grid where they are due."""
        global_step = self.stage.offset + steps_made
        if self._is_due(steps_made, self.options.logging_steps):
            values = self._meter.read(self.batches.wait_seconds)
            values["lr"] = self.stage.lr_at(steps_made - 1, self.options)
            if self._scaler.is_enabled():
                values["loss_scale"] = self._scaler.get_scale()
            values |= self.stage.module.models.cache.report_changes()
            self.log.write(global_step, values)
            self._warn_of_failures(values)
        if self.sample is not None and self._is_due(steps_made, self.options.validation_steps):
            with self._average.swapped_in():
                self.sample(self.stage.name, global_step)

    def _warn_of_failures(self, values: Mapping[str, float]) -> None:
        """Warn of signs that adversarial training fails, of each kind once a stage."""
        for failure in find_failures(values):
            if failure.kind not in self._warned:
                self._warned.add(failure.kind)
                self.log.warning(f"{self.stage.name}: {failure.text}")

    def _save_if_due(self, steps_made: int, stop: bool) -> None:
        """Let the main process write a checkpoint where one is due, or where the run stops."""
        if not stop and not self._is_due(steps_made, self.options.checkpointing_steps):
            return
        global_step = self.stage.offset + steps_made
        if self.accelerator.is_main_process:
            optimizer = self._optimizer.state_dict()
            optimizer["loss_scale"] = self._scaler.state_dict()
            optimizer["nonfinite_in_a_row"] = self._nonfinite_in_a_row
            path = self.checkpoints.save(
                self.stage.name,
                global_step,
                final=steps_made == self.stage.steps,
                tensors=self._tensors,
                average=self._average.values,
                optimizer=optimizer,
                critics={name: c.state() for name, c in self.stage.module.critics.items()},
            )
            self.log.announce_checkpoint(path, global_step)
        self.accelerator.wait_for_everyone()


class _Meter:
    """Means of the logged values since the last :meth:`read`.

    The mean of a term is over the finite steps that had it. Sums stay on the device until then.
    """

    def __init__(self, waited: float) -> None:
        self._restart(waited)

    def _restart(self, waited: float) -> None:
        self._sums: Losses = {}
        # A batch without ground truth, say, has fewer terms than another.
        self._counts: Losses = {}
        self._steps = 0
        self._waited = waited
        self._clock = time.monotonic()

    def add(self, terms: Losses, finite: Tensor) -> None:
        """Add the terms of a step, unless it was not ``finite``."""
        self._steps += 1
        for name, value in terms.items():
            counted = torch.where(finite, value.detach(), 0)
            self._sums[name] = self._sums.get(name, 0) + counted
            self._counts[name] = self._counts.get(name, 0) + finite

    def read(self, waited: float) -> dict[str, float]:
        """Read the means and restart.

        Args:
            waited: Seconds waited for batches since training began.

        Returns:
            Mean terms (none without a finite step), ``seconds`` of a step, and ``loader_wait``,
            the share of them spent waiting for batches.
        """
        elapsed = time.monotonic() - self._clock
        values: dict[str, float] = {}
        for name, total in self._sums.items():
            count = float(self._counts[name])
            if count:
                values[name] = float(total) / count
        values["seconds"] = elapsed / self._steps
        values["loader_wait"] = (waited - self._waited) / max(elapsed, 1e-9)
        self._restart(waited)
        return values


@contextmanager
def _collected_signals() -> Iterator[list[str]]:
    """Collect the names of received SIGINT and SIGTERM, so that the loop can stop by itself.

    A second signal of the same kind has its usual effect.
    """
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread set signal handlers.
        yield received
        return

    def collect(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(number, handlers[number])

    handlers: dict[int, Any] = {
        signal.SIGINT: signal.getsignal(signal.SIGINT),
        signal.SIGTERM: signal.getsignal(signal.SIGTERM),
    }
    for number in handlers:
        signal.signal(number, collect)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}
