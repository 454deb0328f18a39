"""Train the stages of a recipe for a few steps, without a run's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distillkit.data.batches import TrainingBatches
from distillkit.files.atomic import scratch_folder
from distillkit.inference.student import Student
from distillkit.objectives.reconstruction import ReconstructionLoss
from distillkit.recipe.build import build_reconstruction_loss
from distillkit.recipe.load import ResolvedRecipe
from distillkit.runs.distill import drop_stage1_teachers
from distillkit.runs.preflight import check_required_files
from distillkit.runs.run import open_batches
from distillkit.training.checkpoint import Checkpoints
from distillkit.training.distributed import create_accelerator
from distillkit.training.loop import Stage, Trainer
from distillkit.training.models import RunModels, build_models
from distillkit.training.stages import make_stage1, make_stage2
from distillkit.training.tracking import RunLog

EVERY_LOSS = {"logging_steps": 1, "checkpointing_steps": 0, "validation_steps": 0}
"""Options of ``[training]`` with which every loss is logged, and nothing else is kept."""


@dataclass(frozen=True)
class PreparedStage:
    """A stage of a recipe that can be trained for a few steps.

    It uses the training loop of a run, so every setting of the recipe has the same effect as there.
    """

    resolved: ResolvedRecipe
    accelerator: Accelerator
    stage: Stage
    student: Student
    """The student that is trained."""
    reconstruction: ReconstructionLoss

    @property
    def name(self) -> str:
        """``"stage1"`` or ``"stage2"``."""
        return self.stage.name

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.accelerator.device

    @property
    def models(self) -> RunModels:
        """The student, the teachers of this stage, and the degradation."""
        return self.stage.module.models

    def open_batches(self, crop_size: int) -> TrainingBatches:
        """Open the recipe's training batches, with crops of another size.

        Args:
            crop_size: Side of the crops in pixels.
        """
        resolved = _with_data(self.resolved, crop_size=crop_size)
        return open_batches(resolved, self.models.student.scale, self.accelerator.num_processes)

    def train(
        self, batches: TrainingBatches, steps: int, between_steps: Callable[[int], None]
    ) -> list[float]:
        """Train from step 0 on.

        Args:
            batches: From :meth:`open_batches`.
            steps: How many steps.
            between_steps: Called with the number of steps made: with 0 before the first one, then
                after each.

        Returns:
            The loss of each step; NaN where it is not finite.

        Raises:
            DistillkitError: Too many losses in a row are not finite.
        """
        recipe = self.resolved.recipe
        options = recipe.training.model_copy(update=EVERY_LOSS)
        stage = replace(self.stage, steps=steps, offset=0)
        with scratch_folder() as folder:
            log = _StepLog(folder, self.accelerator, between_steps)
            checkpoints = Checkpoints(folder / "checkpoints", keep=1)
            seed = recipe.seed
            trainer = Trainer(stage, batches, options, seed, self.accelerator, checkpoints, log)
            trainer.train()
        return log.losses


def prepare_stages(resolved: ResolvedRecipe) -> Iterator[PreparedStage]:
    """Build a recipe's models, and prepare one stage after the other.

    Train a stage before taking the next one: stage 2 begins with the student as it is then. The
    first steps of a stage that learn something else, ``stage1.pretraining_steps`` and
    ``stage2.faithful_steps``, are left out: a few steps are like most of the run.

    Args:
        resolved: The recipe; its held-out images may be missing.

    Yields:
        Stage 1, then stage 2, as far as the recipe has steps of them.

    Raises:
        DistillkitError: Weights or training images are missing.
    """
    resolved = _without_first_steps(_with_data(resolved, eval=[]))
    check_required_files(resolved)
    recipe = resolved.recipe
    options = recipe.training.model_copy(update={"log_with": []})
    accelerator = create_accelerator(options, Path())
    models = build_models(resolved, accelerator.device)
    reconstruction = build_reconstruction_loss(resolved, accelerator.device)
    stage1, adapter = make_stage1(recipe, models, reconstruction)
    if recipe.stage1.steps:
        student = Student(models.student, None)
        yield PreparedStage(resolved, accelerator, stage1, student, reconstruction)
    adapter.merge()
    drop_stage1_teachers(models, recipe)
    if recipe.stage2.steps:
        stage2, variant = make_stage2(resolved, models, reconstruction)
        student = Student(models.student, variant)
        yield PreparedStage(resolved, accelerator, stage2, student, reconstruction)


def _without_first_steps(resolved: ResolvedRecipe) -> ResolvedRecipe:
    recipe = resolved.recipe
    stages = {
        "stage1": recipe.stage1.model_copy(update={"pretraining_steps": 0}),
        "stage2": recipe.stage2.model_copy(update={"faithful_steps": 0}),
    }
    return replace(resolved, recipe=recipe.model_copy(update=stages))


class _StepLog(RunLog):
    """Replaces the log of a run: keeps the losses, and calls back between steps.

    Args:
        folder: For what the training loop writes down of steps that are not finite.
        accelerator: The accelerator of the stage.
        between_steps: Called with the number of steps made.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, between_steps: Callable[[int], None]
    ) -> None:
        super().__init__(folder / "metrics.jsonl", accelerator, _observe_nothing)
        self.losses: list[float] = []
        self._between_steps = between_steps

    def begin(self, stage: str, done: int, total: int) -> None:
        self._done = done
        self._between_steps(done)

    def advance(self) -> None:
        self._done += 1
        self._between_steps(self._done)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.losses.append(values.get("loss", math.nan))


def _observe_nothing(*args: Any, **kwargs: Any) -> None:
    """Notify no plugin: this is not a run."""


def _with_data(resolved: ResolvedRecipe, **changes: Any) -> ResolvedRecipe:
    """Change values of the recipe's ``[data]`` table."""
    data = resolved.recipe.data.model_copy(update=changes)
    recipe = resolved.recipe.model_copy(update={"data": data})
    return replace(resolved, recipe=recipe)
