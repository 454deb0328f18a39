"""GSAD as a diffusion model, and the two students that start from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit import Condition, DiffusionModel, Identity
from distillkit_lowlight.gsad.padding import border, crop, pad
from distillkit_lowlight.gsad.process import LevelProcess
from distillkit_lowlight.gsad.sampler import TRAINING, Schedule, descend, last_clean
from distillkit_lowlight.gsad.unet import UNet
from distillkit_lowlight.schedule import level_edges


class GSAD(DiffusionModel):
    """Global structure-aware diffusion (Hou et al., NeurIPS 2023): pixel space, conditioned on the low-light image alone.

    Images of any size: the network's input is padded by mirroring (see :mod:`.padding`) and its output cropped.

    Args:
        network: the U-Net. schedule: the steps of :meth:`generate`.
    """

    prediction_type = "epsilon"
    head = "final_conv.block.3"

    def __init__(self, network: UNet, schedule: Schedule) -> None:
        super().__init__()
        self.network: UNet = network
        self.codec = Identity()
        self.process = LevelProcess(level_edges(TRAINING.betas))
        self.schedule = schedule
        self.nfe = schedule.steps
        self._multiple = network.size_multiple

    def condition(self, lq: Tensor) -> Condition:
        """``extra["lq"]``: the low-light image itself."""
        return Condition(extra={"lq": lq})

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise in ``z_t`` (B, 3, H, W) at levels ``t = sqrt(alpha_bar)`` (B,)."""
        by = border(*z_t.shape[-2:], self._multiple)
        x = pad(torch.cat([condition.extra["lq"], z_t], dim=1), by)
        return crop(self.network(x, t.to(x.device, torch.float32)), by)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """A sample of all the schedule's steps (ancestral DDPM), before its last clamp to [-1, 1]."""
        return self._sample(condition, generator, stop=0)

    def _sample(self, condition: Condition, generator: torch.Generator | None, stop: int) -> Tensor:
        """The clean image seen at step ``stop`` by a sampler stopped there; gradient through this last pass only."""
        lq = condition.extra["lq"]
        by = border(*lq.shape[-2:], self._multiple)
        padded = self.condition(pad(lq, by))
        draws = _normal_like(padded.extra["lq"], generator)

        def predict_noise(x: Tensor, level: Tensor) -> Tensor:
            return self(x, level, padded)

        with torch.no_grad():
            x = descend(predict_noise, self.schedule, next(draws), draws, stop)
        return crop(last_clean(predict_noise, self.schedule, x, stop), by)


class LastStepStudent(GSAD):
    """A student of many steps, trained through one of them.

    While gradients are recorded, :meth:`generate` stops the sampler at a step drawn uniformly (one for the batch) and returns the
    clean image seen there, with the gradient of that pass alone: over training every step of the sampler is reached at the cost of
    one backward. Under ``torch.no_grad()`` it samples all steps.
    """

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        stop = (
            int(torch.randint(self.schedule.steps, (), generator=generator))
            if torch.is_grad_enabled()
            else 0
        )
        return self._sample(condition, generator, stop)


class OneStepStudent(GSAD):
    """A student of one step: the clean image seen in pure noise at the noisiest level of GSAD's training.

    It starts as the blurry posterior mean and needs longer training; in exchange it restores in one pass.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__(network, TRAINING)
        self.nfe = 1

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self._sample(condition, generator, stop=self.schedule.steps - 1)


def _normal_like(image: Tensor, generator: torch.Generator | None) -> Iterator[Tensor]:
    while True:
        yield torch.randn(image.shape, generator=generator).to(image)
