"""A recipe made ready to be measured: its models loaded once, its stages in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

from torch import nn

from distillkit.bench.train import Measured, measure
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
    """Raises DistillkitError where weights or training images are missing; held-out images may be."""

    def __init__(self, resolved: ResolvedRecipe) -> None:
        self.resolved = _with_data(resolved, eval=[])
        self.recipe = self.resolved.recipe
        check_presence(self.resolved)
        self.accelerator = create_accelerator(
            self.recipe.training.model_copy(update={"log_with": []}), Path()
        )
        self.device = self.accelerator.device
        self.models = build_models(self.resolved, self.device)
        self.reconstruction = build_reconstruction_loss(self.resolved, self.device)
        self._variant: Variant | None = None

    @property
    def crop_unit(self) -> int:
        """Training crops must be multiples of it."""
        return lcm(
            *(
                self.models.student.scale * m.size_multiple
                for m in (self.models.student, *self.models.teachers.values())
            )
        )

    def weights(self) -> dict[str, int]:
        """Bytes of the tensors of each network. What several hold in common is counted for the first."""
        teachers = {f"{role} teacher": teacher for role, teacher in self.models.teachers.items()}
        return stored(
            {"student": self.models.student}
            | teachers
            | {"perceptual distance": self.reconstruction.distance}
        )

    def stages(self) -> Iterator[Stage]:
        """Stage 1, then, its adapter merged, stage 2 where the recipe has one."""
        stage, adapter = make_stage1(self.recipe, self.models, self.reconstruction)
        yield stage
        adapter.merge()
        self.models.teachers.pop("realness", None)
        if self.recipe.stage2.steps:
            stage, self._variant = make_stage2(self.recipe, self.models, self.reconstruction)
            yield stage

    def measure(
        self, stage: Stage, crop: int, *, warmup: int, steps: int, look: bool = True
    ) -> Measured:
        """Steps of ``stage`` on crops of ``crop`` pixels a side; see :func:`distillkit.bench.train.measure`."""
        batches = open_batches(
            _with_data(self.resolved, crop_size=crop), self.models, self.accelerator.num_processes
        )
        return measure(
            stage, self.recipe, batches, self.accelerator, warmup=warmup, steps=steps, look=look
        )

    def student(self) -> Student:
        """What the stages have made so far."""
        return Student(self.models.student, self._variant)


def stored(owners: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of the tensors of each owner that is a module; memory that several share is counted for the first of them."""
    seen: set[int] = set()
    found = {}
    for name, owner in owners.items():
        if isinstance(owner, nn.Module):
            storages = {
                t.untyped_storage().data_ptr(): t.untyped_storage()
                for t in (*owner.parameters(), *owner.buffers())
            }
            found[name] = sum(s.nbytes() for key, s in storages.items() if key not in seen)
            seen |= storages.keys()
    return found


def _with_data(resolved: ResolvedRecipe, **changes: Any) -> ResolvedRecipe:
    recipe = resolved.recipe
    return replace(
        resolved, recipe=recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})
    )
