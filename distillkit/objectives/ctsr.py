"""Stage 2 as the CTSR paper prints it, in its two statements: eq. 5-8 and algorithm 2.

Neither mentions a faithful target, and neither gives a usable tradeoff on the mini models: see
``docs/explanation/results.md``. The paper does not state their inference rule: this one starts at
the stage-1 result, as its Table 7 does. T_S is the student with its adapter off, S with its
adapter on; T_S gives no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.objectives.controllability import (
    Stage2Batch,
    Variant,
    as_column,
    draw_tradeoff_pair,
    tradeoff_timestep,
)
from distillkit.objectives.reconstruction import Losses
from distillkit.tradeoff import REALISTIC, Tradeoff


class _PaperVariant(Variant):
    """What eq. 8 and algorithm 2 share."""

    student: DiffusionModel
    extra_nfe = 1
    needs_faithful_target = False

    def __init__(self, student: DiffusionModel, adapter: Adapter) -> None:
        self.student = student
        self.adapter: Adapter = adapter

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def generate(
        self,
        condition: Condition,
        tradeoff: Tradeoff,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        if z_0 is None:
            with self.adapter.at_scale(0.0):
                z_0 = self.student.generate(condition, generator)
        if tradeoff == REALISTIC:
            return z_0
        t = torch.full((len(z_0),), float(tradeoff))
        return z_0 + tradeoff * self._eps_s(z_0, t, condition)

    def _eps_s(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return ``eps_S(z, t, c)``; t (B,) in [0, 1] spans the model's range of timesteps."""
        with self.adapter.at_scale(1.0):
            return self._epsilon(z, t, condition)

    @torch.no_grad()
    def _eps_ts(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return ``eps_TS(z, t, c)``, without gradient."""
        with self.adapter.at_scale(0.0):
            return self._epsilon(z, t, condition)

    def _jump_ts(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return ``t eps_TS(z, t, c)``, without gradient."""
        return as_column(t, z) * self._eps_ts(z, t, condition)

    def _epsilon(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        timestep = tradeoff_timestep(self.student.process, t).to(z.device)
        return self.student.predict(z, timestep, condition).epsilon


class CtsrEq8(_PaperVariant):
    """Eq. 8, with ``z_t = z_0 + t eps_TS(z_0, t)`` (eq. 5).

    ``|t eps_TS(z_0, t) - t' eps_TS(z_0, t') + (t' - t) eps_S(z_t, t)|^2``

    t and t' are independent and uniform on (0, 1).
    """

    def losses(self, batch: Stage2Batch) -> Losses:
        z_0 = batch.stage1_latent()
        t, t_prime = draw_tradeoff_pair(batch, len(z_0))
        jump = self._jump_ts(z_0, t, batch.condition)
        jump_prime = self._jump_ts(z_0, t_prime, batch.condition)
        slope = self._eps_s(z_0 + jump, t, batch.condition)
        step = as_column(t_prime, z_0) - as_column(t, z_0)
        return {"ctrl": (jump - jump_prime + step * slope).square().mean()}


class CtsrAlg2(_PaperVariant):
    """Algorithm 2, with t' > t.

    ``|t eps_TS(z_t, t) - t' eps_TS(z_t', t') + (t' - t) eps_S(z_t, t)|^2``,
    ``z_t = z_0 + t eps_TS(z_0, t)`` and ``z_t' = z_t + t' eps_TS(z_0, t)``.

    It differs from eq. 5-8 in where T_S is evaluated and in the step to z_t'.
    """

    def losses(self, batch: Stage2Batch) -> Losses:
        z_0 = batch.stage1_latent()
        one, other = draw_tradeoff_pair(batch, len(z_0))
        t, t_prime = torch.minimum(one, other), torch.maximum(one, other)
        epsilon = self._eps_ts(z_0, t, batch.condition)
        z_t = z_0 + as_column(t, z_0) * epsilon
        z_t_prime = z_t + as_column(t_prime, z_0) * epsilon
        jump = self._jump_ts(z_t, t, batch.condition)
        jump_prime = self._jump_ts(z_t_prime, t_prime, batch.condition)
        slope = self._eps_s(z_t, t, batch.condition)
        step = as_column(t_prime, z_0) - as_column(t, z_0)
        return {"ctrl": (jump - jump_prime + step * slope).square().mean()}
