"""One training step of either stage as one module whose forward makes every pass: the only thing that is prepared for devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from distillkit.data.pairs import Batch
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.adapters import Adapter
from distillkit.diffusion.model import DiffusionModel
from distillkit.objectives.controllability import Lesson, Variant
from distillkit.objectives.dual_teacher import StudentSample, output_distillation, score_distillation
from distillkit.objectives.reconstruction import Distance, reconstruction
from distillkit.recipe.schema import Stage1
from distillkit.training.cast import Cast, Role

Terms = dict[str, Tensor]
"""Loss terms by name, each already weighted; the loss is their sum."""


class Step(nn.Module):
    """``forward(batch, step) -> Terms``. ``student`` is registered so that its trained parameters are the module's."""

    def __init__(self, cast: Cast, seed: int, stage: str) -> None:
        super().__init__()
        self.student = cast.student
        self._cast, self._seed, self._stage = [cast], seed, stage  # in a list: teachers are no submodules and are never prepared
        self.rank = 0

    def tensors(self) -> dict[str, nn.Parameter]:
        """What the stage trains, by name."""
        raise TypeError(f"{type(self).__name__} trains nothing by itself")

    @property
    def cast(self) -> Cast:
        return self._cast[0]

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Randomness of one purpose at one step: a resumed run draws what an uninterrupted one would."""
        return keyed_generator(self._seed, self._stage, step, self.rank, purpose)


class Stage1Step(Step):
    """Algorithm 1: ``L_s1 = L_rec + lambda_rn L_rn + lambda_fl L_fl`` (eq. 4)."""

    def __init__(self, cast: Cast, adapter: Adapter, options: Stage1, perceptual: Distance | None, seed: int) -> None:
        super().__init__(cast, seed, "stage1")
        self.adapter, self._options, self._perceptual = adapter, options, perceptual

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def forward(self, batch: Batch, step: int) -> Terms:
        weights = self._options.weights
        lq, gt = self.cast.inputs(batch, self.generator(batch.step, "degradation"))
        condition = self.student.condition(lq)
        latent = self.student.generate(condition, self.generator(step, "student"))
        sample = StudentSample(condition, latent, self.student.codec.decode(latent))

        shift_draws = self.generator(step, "shift")
        perceptual = self._perceptual if weights.perceptual > 0 else None
        found = reconstruction(sample.image, gt, perceptual, shift=self._options.perceptual_shift, generator=shift_draws)
        terms = {name: getattr(weights, name) * term for name, term in found.items() if getattr(weights, name) > 0}
        for role in self.cast.teachers:
            terms |= self._teach(role, sample, lq, gt, step, batch.step)
        return terms

    def _teach(self, role: Role, sample: StudentSample, lq: Tensor, gt: Tensor, step: int, data_step: int) -> Terms:
        weights, teacher = self._options.weights, self.cast.teachers[role]
        weight = getattr(weights, role)
        if weight == 0:
            return {}
        if getattr(self._options, f"{role}_term") == "output" or not isinstance(teacher, DiffusionModel):
            with torch.no_grad():
                restored = teacher.restore(lq, self.generator(data_step, role))
            return {f"{role}/output": weight * output_distillation(sample, restored)}
        options, draws = self._options, self.generator(step, role)
        imitate, anchor = score_distillation(
            teacher, self.student, sample, lq, gt, draws, weighting=options.weighting, gradient=options.gradient
        )
        return {f"{role}/imitate": weight * weights.imitate * imitate, f"{role}/anchor": weight * weights.anchor * anchor}


class Stage2Step(Step):
    """Controllability distillation: whatever the chosen variant's loss is."""

    def __init__(self, cast: Cast, variant: Variant, seed: int) -> None:
        super().__init__(cast, seed, "stage2")
        self.variant = variant
        self.average: Callable[[], AbstractContextManager[None]] = nullcontext
        self._trained = nn.ParameterList(variant.tensors().values())

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.variant.tensors()

    def forward(self, batch: Batch, step: int) -> Terms:
        lq, gt = self.cast.inputs(batch, self.generator(batch.step, "degradation"))
        endpoint_draws = self.generator(batch.step, "endpoint")
        lesson = Lesson(
            lq=lq,
            gt=gt,
            endpoint=lambda: self.cast.endpoint(lq, endpoint_draws),
            generator=self.generator(step, "variant"),
            draws=lambda: self.generator(batch.step, "student"),
            step=step,
            average=self.average,
        )
        return self.variant.terms(lesson)
