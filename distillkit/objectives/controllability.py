"""Stage 2, flow-matching controllability distillation: it gives the student its tradeoff.

``tradeoff`` t runs from 0 (most realistic: the stage-1 student) to 1 (most faithful). Symbols:
``theta_0`` is the stage-1 student, frozen; ``z_0 = S_theta0(x_LR)`` its latent; ``z_1`` the
faithful target, the fidelity teacher's result in the student's latent space.

===============  ============================  =========================  ===  ===============
variant          trained                       image at tradeoff t        NFE  module
===============  ============================  =========================  ===  ===============
adapter_scaling  an adapter whose scale is t   D(S_theta_t(x_LR))         1    adapter_scaling
oftsr            a copy of the network         D(z_0 + t f(z_0, t))       2    oftsr
ctsr_eq8         an adapter, on                D(z_0 + t eps_S(z_0, t))   2    ctsr
ctsr_alg2        an adapter, on                D(z_0 + t eps_S(z_0, t))   2    ctsr
===============  ============================  =========================  ===  ===============

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
from distillkit.diffusion.model import Condition, RestorationModel
from distillkit.diffusion.process import ForwardProcess
from distillkit.objectives.reconstruction import Losses
from distillkit.tradeoff import Tradeoff


@dataclass(frozen=True)
class Stage2Batch:
    """The inputs of a variant's loss at one step; what costs a pass is computed when called."""

    condition: Condition
    """The student's condition of the low-quality images."""
    gt: Tensor | None
    """The ground truth, (B, 3, H, W) in [-1, 1]; None: only line distillation takes the batch."""
    stage1_latent: Callable[[], Tensor]
    """z_0, (B, C, h, w), computed or read from the cache when called, without gradient."""
    faithful_target: Callable[[], Tensor]
    """z_1, (B, C, h, w), as ``stage1_latent``."""
    realistic_image: Callable[[], Tensor]
    """The realistic teacher's image, (B, 3, H, W) in [-1, 1], as ``stage1_latent``."""
    faithful_image: Callable[[], Tensor]
    """The faithful teacher's image, as ``realistic_image``; with ``stage2.line.self_ensemble`` the
    mean over flips and turns."""
    generator: torch.Generator
    """A CPU generator for timesteps and tradeoffs: new draws at each step."""
    student_generator: Callable[[], torch.Generator]
    """Makes the generator of the student's starting noise: equal whenever a batch comes again."""
    step: int
    """Steps of stage 2 done so far."""
    averaged_weights: Callable[[], AbstractContextManager[None]]
    """A context in which the trained tensors hold their moving average."""
    adversarial: Callable[[Tensor, Tensor, float], Losses] = lambda latent, image, realism: {}
    """Computes ``realism`` times the adversarial term of a latent and its image, if there is one,
    and lets the discriminator learn from them."""


class Variant(ABC):
    """One way to train a tradeoff and to use it."""

    student: RestorationModel
    extra_nfe: int
    """Network evaluations of :meth:`generate` beyond those of the stage-1 student."""
    needs_faithful_target: bool

    adapter: Adapter | None = None
    """The adapter that is trained; None where a network of its own is."""

    @property
    def models(self) -> tuple[RestorationModel, ...]:
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
            condition: The student's.
            tradeoff: In [0, 1]; a tensor (B, 1, h, w) where :attr:`takes_map` is true.
            generator: A CPU generator for the student's draws.
            z_0: The latent at 0, where it is known; it saves variants of two passes the first.
        """

    @property
    def takes_map(self) -> bool:
        """Whether :meth:`generate` takes a tradeoff for each pixel, (B, 1, h, w)."""
        return False

    def merged_at(self, tradeoff: float) -> AbstractContextManager[None]:
        """Make :meth:`generate` fast at this one tradeoff, without gradient, inside a context."""
        return nullcontext()


def tradeoff_timestep(process: ForwardProcess, t: Tensor) -> Tensor:
    """Map tradeoffs t (B,) in [0, 1] to timesteps: 0 is the cleanest, 1 the noisiest."""
    if process.num_train_timesteps is not None:
        return (t * (process.num_train_timesteps - 1)).round().long()
    low, high = process.log_snr_range()
    cleanest, noisiest = process.timestep_at(torch.tensor([high, low]))
    return cleanest + t * (noisiest - cleanest)


def draw_tradeoff_pair(batch: Stage2Batch, n: int) -> tuple[Tensor, Tensor]:
    """Draw t and t', independent and uniform on [0, 1), for each of ``n`` images, each (n,)."""
    t, t_prime = torch.rand(2, n, generator=batch.generator)
    return t, t_prime


def as_column(t: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), with the type and device of ``like``."""
    return t.to(like).reshape(-1, 1, 1, 1)
