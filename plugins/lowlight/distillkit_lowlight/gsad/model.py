"""GSAD as a diffusion model, and the two students that start from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit import Condition, DiffusionModel, Identity, ModelInput
from distillkit_lowlight.gsad.padding import choose_border, crop, pad
from distillkit_lowlight.gsad.process import NoiseLevelProcess
from distillkit_lowlight.gsad.sampler import (
    TRAINING,
    Schedule,
    predict_sample,
    run_reverse_chain,
)
from distillkit_lowlight.gsad.unet import UNet
from distillkit_lowlight.schedule import make_level_edges


class GSAD(DiffusionModel):
    """Global structure-aware diffusion (Hou et al., NeurIPS 2023).

    It works in pixel space and is conditioned on the low-light image alone. Images may have any
    size: the network's input is padded (see :mod:`.padding`) and its output cropped.

    Args:
        network: The U-Net.
        schedule: The steps of :meth:`generate`.
    """

    prediction_type = "epsilon"
    head = "final_conv.block.3"

    def __init__(self, network: UNet, schedule: Schedule) -> None:
        super().__init__()
        self.network: UNet = network
        self.codec = Identity()
        self.process = NoiseLevelProcess(make_level_edges(TRAINING.betas))
        self.schedule = schedule
        self.nfe = schedule.steps
        # Kept apart from size_multiple, which is 1: this model pads by itself.
        self._network_multiple = network.size_multiple

    def condition(self, inputs: ModelInput) -> Condition:
        """Pass on the low-light images, as ``extra["lq"]``."""
        return Condition(extra={"lq": inputs.lq})

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict the noise in ``z_t``.

        Args:
            z_t: Noisy images, shape (B, 3, H, W).
            t: Noise levels ``sqrt(alpha_bar)``, shape (B,).
            condition: From :meth:`condition`.
        """
        border = choose_border(z_t, self._network_multiple)
        x = torch.cat([condition.extra["lq"], z_t], dim=1)
        x = pad(x, border)
        # Half precision could not tell the cleanest levels apart.
        levels = t.to(x.device, torch.float32)
        epsilon = self.network(x, levels)
        return crop(epsilon, border)

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Take all steps of the schedule (ancestral DDPM).

        The image is not clamped to [-1, 1] yet.
        """
        return self._sample_to(condition, generator, stop=0)

    def _sample_to(
        self,
        condition: Condition,
        generator: torch.Generator | None,
        stop: int,
    ) -> Tensor:
        """Predict the clean image at step ``stop`` of the sampler.

        Gradient flows through this last evaluation of the network only.
        """
        lq = condition.extra["lq"]
        border = choose_border(lq, self._network_multiple)
        padded_lq = pad(lq, border)
        padded_condition = Condition(extra={"lq": padded_lq})
        noises = _normal_like(padded_lq, generator)

        def predict_noise(x: Tensor, level: Tensor) -> Tensor:
            return self(x, level, padded_condition)

        with torch.no_grad():
            x = run_reverse_chain(predict_noise, self.schedule, next(noises), noises, stop)
        # An error of the noise is up to 12 times as large in the clean image, and no clamp or later
        # step makes it smaller again: it must not be one of autocast's.
        with torch.autocast(x.device.type, enabled=False):
            sample = predict_sample(predict_noise, self.schedule, x, stop)
        return crop(sample, border)


class LastStepStudent(GSAD):
    """A student of many steps, trained through one of them.

    While gradients are recorded, :meth:`generate` stops the sampler at a step drawn uniformly (one
    for the batch) and returns the clean image predicted there, with the gradient of that one
    evaluation. Over training every step of the sampler is reached, at the cost of one backward.
    Under ``torch.no_grad()`` it takes all steps.
    """

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        stop = 0
        if torch.is_grad_enabled():
            stop = int(torch.randint(self.schedule.steps, (), generator=generator))
        return self._sample_to(condition, generator, stop)


class OneStepStudent(GSAD):
    """A student of one step: the clean image predicted from pure noise.

    The step is the noisiest of GSAD's training. The student starts as the blurry posterior mean and
    needs longer training; in exchange it restores in one network evaluation.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__(network, TRAINING)
        self.nfe = 1

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._sample_to(condition, generator, stop=self.schedule.steps - 1)


def _normal_like(
    image: Tensor,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Draw standard normal noise on the CPU, tensor after tensor."""
    while True:
        yield torch.randn(image.shape, generator=generator).to(image)
