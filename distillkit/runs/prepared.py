"""Make a recipe ready to be measured: its models loaded once, its stages in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

from torch import nn

from distillkit.bench.train import StageMeasurement, measure_stage
from distillkit.inference.student import Student
from distillkit.objectives.controllability import Variant
from distillkit.recipe.build import build_reconstruction_loss
from distillkit.recipe.load import ResolvedRecipe
from distillkit.runs.preflight import check_presence
from distillkit.runs.run import open_batches
from distillkit.training.distributed import create_accelerator
from distillkit.training.loop import Stage
from distillkit.training.models import build_models
from distillkit.training.stages import make_stage1, make_stage2


class Subject:
    """A recipe that is measured, with its models on the device.

    Args:
        resolved: The recipe; its held-out images may be missing.

    Raises:
        DistillkitError: Weights or training images are missing.
    """

    def __init__(self, resolved: ResolvedRecipe) -> None:
        self.resolved = _with_data(resolved, eval=[])
        self.recipe = self.resolved.recipe
        check_presence(self.resolved)
        options = self.recipe.training.model_copy(update={"log_with": []})
        self.accelerator = create_accelerator(options, Path())
        self.device = self.accelerator.device
        self.models = build_models(self.resolved, self.device)
        self.reconstruction = build_reconstruction_loss(self.resolved, self.device)
        self._variant: Variant | None = None

    @property
    def crop_unit(self) -> int:
        """The number of pixels that training crops are multiples of."""
        student = self.models.student
        models = (student, *self.models.teachers.values())
        return lcm(*(student.scale * model.size_multiple for model in models))

    def count_weights(self) -> dict[str, int]:
        """Count the bytes of each network's tensors; shared ones for the first."""
        owners: dict[str, Any] = {"student": self.models.student}
        for role, teacher in self.models.teachers.items():
            owners[f"{role} teacher"] = teacher
        owners["perceptual distance"] = self.reconstruction.distance
        return count_tensor_bytes(owners)

    def stages(self) -> Iterator[Stage]:
        """Prepare stage 1, then, its adapter merged, stage 2 where there is one."""
        stage, adapter = make_stage1(self.recipe, self.models, self.reconstruction)
        yield stage
        adapter.merge()
        if self.recipe.stage2.steps:
            stage, self._variant = make_stage2(self.resolved, self.models, self.reconstruction)
            yield stage

    def measure(
        self, stage: Stage, crop: int, *, warmup: int, steps: int, breakdown: bool = True
    ) -> StageMeasurement:
        """Measure steps of a stage on crops of ``crop`` x ``crop`` pixels.

        The other arguments are those of :func:`distillkit.bench.train.measure_stage`.
        """
        resolved = _with_data(self.resolved, crop_size=crop)
        batches = open_batches(resolved, self.models, self.accelerator.num_processes)
        return measure_stage(
            stage,
            self.recipe,
            batches,
            self.accelerator,
            warmup=warmup,
            steps=steps,
            breakdown=breakdown,
        )

    def build_student(self) -> Student:
        """Build the student that the stages have trained so far."""
        return Student(self.models.student, self._variant)


def count_tensor_bytes(owners: Mapping[str, Any]) -> dict[str, int]:
    """Count the bytes of the tensors of each owner that is a module.

    Memory that several share is counted for the first of them.
    """
    seen: set[int] = set()
    sizes = {}
    for name, owner in owners.items():
        if not isinstance(owner, nn.Module):
            continue
        sizes[name] = 0
        for tensor in (*owner.parameters(), *owner.buffers()):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                sizes[name] += storage.nbytes()
    return sizes


def _with_data(resolved: ResolvedRecipe, **changes: Any) -> ResolvedRecipe:
    """Change values of the recipe's ``[data]`` table."""
    data = resolved.recipe.data.model_copy(update=changes)
    recipe = resolved.recipe.model_copy(update={"data": data})
    return replace(resolved, recipe=recipe)
