"""Adapter scaling, the stage-2 variant that is ours, and its objectives (``stage2.target``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.diffusion.model import Condition, RestorationModel
from distillkit.objectives.controllability import Stage2Batch, Variant
from distillkit.objectives.line import LineLoss
from distillkit.objectives.reconstruction import Losses, ReconstructionLoss
from distillkit.tradeoff import FAITHFUL, REALISTIC, Tradeoff


class Objective(ABC):
    """The loss of adapter scaling at one tradeoff; ``stage2.target`` of a recipe chooses one."""

    needs_faithful_target = False

    @abstractmethod
    def __call__(self, batch: Stage2Batch, tradeoff: float, z_t: Tensor) -> Losses:
        """Compute the weighted loss terms.

        Args:
            batch: The batch of this step.
            tradeoff: t, in [0, 1].
            z_t: The student's latent at t, (B, C, h, w), with gradient.
        """


class TeacherObjective(Objective):
    """``|S_theta_t(x_LR) - ((1 - t) z_0 + t z_1)|^2``: from the stage-1 student to T_f."""

    needs_faithful_target = True

    def __call__(self, batch: Stage2Batch, tradeoff: float, z_t: Tensor) -> Losses:
        z_0 = batch.stage1_latent()
        z_1 = batch.faithful_target()
        target = (1 - tradeoff) * z_0 + tradeoff * z_1
        return {"teacher": (z_t - target).square().mean()}


@dataclass(frozen=True)
class ReconstructionObjective(Objective):
    """Eq. 1 with an L2 weight that grows geometrically: ``lambda_l2(t) = lambda_l2 ratio^t``.

    No teacher is called.
    """

    student: RestorationModel
    loss: ReconstructionLoss
    l2_weight_ratio: float
    """lambda_l2 at tradeoff 1 divided by lambda_l2 at tradeoff 0."""

    def __call__(self, batch: Stage2Batch, tradeoff: float, z_t: Tensor) -> Losses:
        x_t = self.student.codec.decode(z_t)
        assert batch.gt is not None, "refused with its recipe"
        l2_factor = self.l2_weight_ratio**tradeoff
        return self.loss(x_t, batch.gt, batch.generator, l2_factor=l2_factor)


@dataclass(frozen=True)
class LineObjective(Objective):
    """Line distillation (:mod:`~distillkit.objectives.line`)."""

    student: RestorationModel
    loss: LineLoss
    realistic_end: Literal["teacher", "stage1"]
    """r: the realistic teacher's image, or the stage-1 student's."""
    faithful_end: Literal["teacher", "ground_truth"]
    """f: the faithful teacher's image; or x, whose regression is E[x | x_LQ]."""

    def __call__(self, batch: Stage2Batch, tradeoff: float, z_t: Tensor) -> Losses:
        x_t = self.student.codec.decode(z_t)
        m_t = self._combine_ends(batch, tradeoff) if self.loss.uses_mix else None
        losses = self.loss(x_t, tradeoff, m_t, batch.gt, batch.generator)
        return losses | batch.adversarial(z_t, x_t, 1 - tradeoff)

    @torch.no_grad()
    def _combine_ends(self, batch: Stage2Batch, tradeoff: float) -> Tensor:
        """Compute ``m_t``; an end of weight 0 is not computed."""
        if tradeoff == REALISTIC:
            return self._realistic_image(batch)
        if tradeoff == FAITHFUL:
            return self._faithful_image(batch)
        faithful = tradeoff * self._faithful_image(batch)
        return faithful + (1 - tradeoff) * self._realistic_image(batch)

    def _realistic_image(self, batch: Stage2Batch) -> Tensor:
        if self.realistic_end == "teacher":
            return batch.realistic_image()
        return self.student.codec.decode(batch.stage1_latent())

    def _faithful_image(self, batch: Stage2Batch) -> Tensor:
        if self.faithful_end == "teacher":
            return batch.faithful_image()
        assert batch.gt is not None, "refused with its recipe"
        return batch.gt


class AdapterScaling(Variant):
    """The tradeoff is the scale of the stage-2 adapter.

    ``theta_t = theta_0 + t (theta - theta_0)``, one pass at every t. The objective defines the loss
    at t.

    All images of a batch have the same t. It is 1 in the first ``faithful_steps`` steps and every
    ``faithful_every`` steps, and uniform on [0, 1] otherwise. No step is set to 0: there the
    adapter has no effect, so nothing would be learned. Only theta has gradient; the diffusion
    timestep that a denoiser sees stays the student's own. A fixed t merges into plain weights.

    Args:
        student: With its stage-1 weights merged.
        adapter: On the student's network, starting at zero.
        objective: The loss; None for a student that only restores.
        faithful_every: Every so many steps t is 1; 0: never by this rule.
        faithful_steps: First steps of the stage, in which t is 1.
    """

    extra_nfe = 0

    def __init__(
        self,
        student: RestorationModel,
        adapter: Adapter,
        objective: Objective | None = None,
        *,
        faithful_every: int = 3,
        faithful_steps: int = 0,
    ) -> None:
        self.student = student
        self.adapter: Adapter = adapter
        self._objective = objective
        self.needs_faithful_target = objective is not None and objective.needs_faithful_target
        self._faithful_every = faithful_every
        self._faithful_steps = faithful_steps

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def losses(self, batch: Stage2Batch) -> Losses:
        assert self._objective is not None, "it was built for restoring only"
        t = self._draw_tradeoff(batch)
        z_t = self.generate(batch.condition, t, batch.student_generator())
        return self._objective(batch, t, z_t)

    def generate(
        self,
        condition: Condition,
        tradeoff: Tradeoff,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        if isinstance(tradeoff, Tensor) and tradeoff.ndim == 4:
            scaled = self.adapter.at_map(tradeoff)
        else:
            scaled = self.adapter.at_scale(tradeoff)
        with scaled:
            return self.student.generate(condition, generator)

    @property
    def takes_map(self) -> bool:
        return self.adapter.takes_map

    def merged_at(self, tradeoff: float) -> AbstractContextManager[None]:
        return self.adapter.merged_at(tradeoff)

    def _draw_tradeoff(self, batch: Stage2Batch) -> float:
        # Drawn even where it is not used, so that the draws after it do not depend on the step.
        drawn = float(torch.rand((), generator=batch.generator))
        if batch.step < self._faithful_steps:
            return FAITHFUL
        if self._faithful_every > 0 and (batch.step + 1) % self._faithful_every == 0:
            return FAITHFUL
        return drawn
