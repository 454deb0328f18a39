"""The loss of OFTSR, on the line from the stage-1 student to the faithful target (stage 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.diffusion.model import Condition, DiffusionModel, with_own_network
from distillkit.errors import PluginError
from distillkit.objectives.controllability import (
    Stage2Batch,
    Variant,
    as_column,
    draw_tradeoff_pair,
    tradeoff_timestep,
)
from distillkit.objectives.reconstruction import Losses
from distillkit.tradeoff import REALISTIC, Tradeoff


class Oftsr(Variant):
    """A network f whose jumps ``t f(z_0, t)`` follow a straight flow from z_0 to z_1.

    ``L = |t' f(z_0, t') - sg[t f_avg(z_0, t)] - (t' - t) (z_1 - z_0)|^2``

    with t and t' independent and uniform on (0, 1). f is a copy of the stage-1 network with its
    last layer at zero, fed z_0 and t in the place of the diffusion timestep; f_avg is its moving
    average, without gradient. Two passes: z_0, then f.

    Args:
        student: With its stage-1 weights merged; it must name its ``head``.

    Raises:
        PluginError: The student names no ``head``.
    """

    student: DiffusionModel
    extra_nfe = 1
    needs_faithful_target = True

    def __init__(self, student: DiffusionModel) -> None:
        if student.head is None:
            raise PluginError(
                f"{type(student).__name__} names no head, which stage2.variant = "
                '"oftsr" starts from zero; use "adapter_scaling"'
            )
        self.student = student
        self._flow_model = with_own_network(student)
        self._flow_model.network.requires_grad_(True)
        # f is 0 at first: every tradeoff begins as the stage-1 student.
        for parameter in self._flow_model.network.get_submodule(student.head).parameters():
            nn.init.zeros_(parameter)

    @property
    def models(self) -> tuple[DiffusionModel, ...]:
        return self.student, self._flow_model

    def tensors(self) -> dict[str, nn.Parameter]:
        return dict(self._flow_model.network.named_parameters())

    def losses(self, batch: Stage2Batch) -> Losses:
        z_0 = batch.stage1_latent()
        z_1 = batch.faithful_target()
        t, t_prime = draw_tradeoff_pair(batch, len(z_0))
        with torch.no_grad(), batch.averaged_weights():
            average_jump = self._jump_to(t, z_0, batch.condition)
        jump = self._jump_to(t_prime, z_0, batch.condition)
        step = as_column(t_prime, z_0) - as_column(t, z_0)
        return {"ctrl": (jump - average_jump - step * (z_1 - z_0)).square().mean()}

    def generate(
        self,
        condition: Condition,
        tradeoff: Tradeoff,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        if z_0 is None:
            z_0 = self.student.generate(condition, generator)
        if tradeoff == REALISTIC:
            return z_0
        t = torch.full((len(z_0),), float(tradeoff))
        return z_0 + tradeoff * self._flow(z_0, t, condition)

    def _jump_to(self, t: Tensor, z_0: Tensor, condition: Condition) -> Tensor:
        """Compute ``t f(z_0, t)``; t (B,)."""
        return as_column(t, z_0) * self._flow(z_0, t, condition)

    def _flow(self, z_0: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Compute ``f(z_0, t)``; t (B,)."""
        timestep = tradeoff_timestep(self.student.process, t).to(z_0.device)
        return self._flow_model(z_0, timestep, condition)
