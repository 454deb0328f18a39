"""Stage 2, flow-matching controllability distillation: it gives the student its tradeoff.

``tradeoff`` t runs from 0 (most realistic: the stage-1 student) to 1 (most faithful). Symbols:
``theta_0`` is the stage-1 student, frozen; ``z_0 = S_theta0(x_LR)`` its latent; ``z_1`` the
faithful target, the fidelity teacher's result in the student's latent space.

===============  ============================  ============================  ===  ==================
variant          trained                       image at tradeoff t           NFE  where
===============  ============================  ============================  ===  ==================
adapter_scaling  an adapter whose scale is t   D(S_theta_t(x_LR))            1    this file
oftsr            a copy of the network         D(z_0 + t f(z_0, t))          2    ``oftsr.py``
ctsr_eq8         an adapter, on                D(z_0 + t eps_S(z_0, t))      2    ``paper.py``
ctsr_alg2        an adapter, on                D(z_0 + t eps_S(z_0, t))      2    ``paper.py``
===============  ============================  ============================  ===  ==================

(NFE for a student that generates in one evaluation.) ``adapter_scaling`` is ours and the default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.adapters import Adapter
from distillkit.diffusion.model import Condition, DiffusionModel
from distillkit.diffusion.process import ForwardProcess
from distillkit.objectives.reconstruction import Losses, ReconstructionLoss
from distillkit.tradeoff import FAITHFUL, Tradeoff


@dataclass(frozen=True)
class Stage2Batch:
    """What a variant may learn from at one step."""

    condition: Condition
    """The student's condition of the low-quality images."""
    gt: Tensor
    """The ground truth, (B, 3, H, W) in [-1, 1]."""
    start: Callable[[], Tensor]
    """z_0, (B, C, h, w), computed or read from the cache when called, without gradient."""
    faithful_target: Callable[[], Tensor]
    """z_1, likewise."""
    generator: torch.Generator
    """A CPU generator for timesteps and tradeoffs: new draws at each step."""
    student_generator: Callable[[], torch.Generator]
    """Makes the generator of the student's starting noise: equal whenever a batch comes again."""
    step: int
    """Steps of stage 2 done so far."""
    averaged_weights: Callable[[], AbstractContextManager[None]]
    """A context in which the trained tensors hold their moving average."""


class Variant(ABC):
    """One way to train a tradeoff and to use it."""

    student: DiffusionModel
    extra_nfe: int
    """Network evaluations of :meth:`generate` beyond those of the stage-1 student."""
    needs_faithful_target: bool

    adapter: Adapter | None = None
    """The adapter that is trained; None where a network of its own is."""

    @property
    def models(self) -> tuple[DiffusionModel, ...]:
        """Every model whose passes carry gradient."""
        return (self.student,)

    @abstractmethod
    def tensors(self) -> dict[str, nn.Parameter]:
        """Return what stage 2 trains, by name."""

    @abstractmethod
    def losses(self, batch: Stage2Batch) -> Losses:
        """Compute the weighted loss terms of one batch."""

    @abstractmethod
    def generate(
        self,
        condition: Condition,
        tradeoff: Tradeoff,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        """Generate the latent at ``tradeoff``: at 0 exactly the stage-1 student's.

        Args:
            condition: the student's.
            tradeoff: in [0, 1].
            generator: a CPU generator for the student's draws.
            z_0: the latent at 0, where it is known; it saves variants of two passes the first.
        """

    def merged_at(self, tradeoff: float) -> AbstractContextManager[None]:
        """Make :meth:`generate` fast at this one tradeoff, without gradient, inside a context."""
        return nullcontext()


class AdapterScaling(Variant):
    """The tradeoff is the scale of the stage-2 adapter.

    ``theta_t = theta_0 + t (theta - theta_0)``, one pass at every t. With a faithful target

    ``L = |S_theta_t(x_LR) - ((1 - t) z_0 + t z_1)|^2``;

    without one, the reconstruction loss (eq. 1) whose L2 weight grows geometrically,
    ``lambda_l2(t) = lambda_l2 ratio^t``, and no teacher is asked.

    One t, uniform on [0, 1], serves a whole batch; every ``faithful_every`` steps t is 1. Only
    theta has gradient; the diffusion timestep that the network sees stays the student's own. A
    fixed t merges into plain weights.

    Args:
        student: with its stage-1 weights merged.
        adapter: on the student's network, starting at zero.
        reconstruction: the loss for the reconstruction target; None for the faithful target.
        l2_weight_ratio: ``ratio`` above.
        faithful_every: 0: t = 1 is never forced.
    """

    extra_nfe = 0

    def __init__(
        self,
        student: DiffusionModel,
        adapter: Adapter,
        reconstruction: ReconstructionLoss | None = None,
        *,
        l2_weight_ratio: float = 40.0,
        faithful_every: int = 3,
    ) -> None:
        self.student = student
        self.adapter: Adapter = adapter
        self.needs_faithful_target = reconstruction is None
        self._reconstruction = reconstruction
        self._l2_weight_ratio = l2_weight_ratio
        self._faithful_every = faithful_every

    def tensors(self) -> dict[str, nn.Parameter]:
        return self.adapter.tensors()

    def losses(self, batch: Stage2Batch) -> Losses:
        t = self._draw_tradeoff(batch)
        if self._reconstruction is None:
            z_0 = batch.start()
            z_1 = batch.faithful_target()
            z_t = self.generate(batch.condition, t, batch.student_generator())
            return {"teacher": (z_t - ((1 - t) * z_0 + t * z_1)).square().mean()}
        z_t = self.generate(batch.condition, t, batch.student_generator())
        x_t = self.student.codec.decode(z_t)
        l2_factor = self._l2_weight_ratio**t
        return self._reconstruction(x_t, batch.gt, batch.generator, l2_factor=l2_factor)

    def generate(
        self,
        condition: Condition,
        tradeoff: Tradeoff,
        generator: torch.Generator | None = None,
        z_0: Tensor | None = None,
    ) -> Tensor:
        with self.adapter.at_scale(tradeoff):
            return self.student.generate(condition, generator)

    def merged_at(self, tradeoff: float) -> AbstractContextManager[None]:
        return self.adapter.merged_at(tradeoff)

    def _draw_tradeoff(self, batch: Stage2Batch) -> float:
        # Drawn even where it is not used, so that the draws after it do not depend on the step.
        drawn = float(torch.rand((), generator=batch.generator))
        if self._faithful_every > 0 and (batch.step + 1) % self._faithful_every == 0:
            return FAITHFUL
        return drawn


def tradeoff_timestep(process: ForwardProcess, t: Tensor) -> Tensor:
    """Map tradeoffs t (B,) in [0, 1] to timesteps: 0 is the cleanest, 1 the noisiest."""
    if process.num_train_timesteps is not None:
        return (t * (process.num_train_timesteps - 1)).round().long()
    low, high = process.log_snr_range()
    cleanest, noisiest = process.timestep_at(torch.tensor([high, low]))
    return cleanest + t * (noisiest - cleanest)


def draw_tradeoff_pair(batch: Stage2Batch, n: int) -> tuple[Tensor, Tensor]:
    """Draw two independent uniform tradeoffs for each of ``n`` images, each (n,)."""
    t, u = torch.rand(2, n, generator=batch.generator)
    return t, u


def as_column(t: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), with the type and device of ``like``."""
    return t.to(like).reshape(-1, 1, 1, 1)
