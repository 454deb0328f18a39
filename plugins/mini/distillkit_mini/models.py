"""The mini models: codec, forward process and denoiser of each.

A task decides what they start from; everything else is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import (
    Condition,
    ContinuousResidualShifting,
    CosineVariancePreserving,
    DiffusionModel,
    ModelInput,
    PixelUnshuffle,
    load_exactly,
    read_state_dict,
)
from distillkit_mini.codec import BlockDct
from distillkit_mini.network import UNet

SCALE = 4
"""Enlargement in super-resolution."""
PATCH = 4
"""Pixels of the restored image along a side of a latent pixel."""
CHANNELS = 3 * PATCH**2
LATENT_GAIN = 2.0
"""Latents are twice the pixels, which brings their spread near 1."""
WIDTH = 48
BLOCKS = (2, 3, 2)

EXPOSURE = 0.28
GAMMA = 2.15
"""What :func:`brighten` assumes: about the middle of the low-light models' training ranges."""


def enlarge(lq: Tensor) -> Tensor:
    """Enlarge images bicubically, (B, 3, h, w) -> (B, 3, 4 h, 4 w)."""
    return F.interpolate(lq, scale_factor=SCALE, mode="bicubic", align_corners=False)


def brighten(lq: Tensor) -> Tensor:
    """Brighten images by ``(x / EXPOSURE)^(1 / GAMMA)`` of x in [0, 1].

    The result is not clamped, so that no highlight is lost. The curve is the same for every image:
    how dark a pixel is tells how bright it was.

    Args:
        lq: (B, 3, h, w) in [-1, 1].

    Returns:
        (B, 3, h, w), 0 and above in [-1, 1] units.
    """
    light = ((lq + 1) / 2).clamp(0, 1)
    return (light / EXPOSURE) ** (1 / GAMMA) * 2 - 1


@dataclass(frozen=True)
class Task:
    """What a mini model undoes."""

    scale: int
    """Output size divided by input size."""
    guess: Callable[[Tensor], Tensor]
    """Maps inputs (B, 3, h, w) to images of the output's size, without a network: the start."""
    guess_name: str
    """The guess's name in tables."""


SUPER_RESOLUTION = Task(SCALE, enlarge, "bicubic")
LOW_LIGHT = Task(1, brighten, "brightened")


def load_network(network: nn.Module, path: Path) -> None:
    """Load a network's weights from a safetensors file in half or full precision."""
    weights = read_state_dict(path)
    weights = {name: value.float() for name, value in weights.items()}
    load_exactly(network, weights, path)


class MiniModel(DiffusionModel):
    """The common part: a latent of 48 channels at a quarter of the output's size.

    ``y`` is the encoded guess of the task.
    """

    head = "out"

    def __init__(self, task: Task = SUPER_RESOLUTION) -> None:
        super().__init__()
        self.task = task
        self.scale = task.scale
        # the network halves its latents once
        self.size_multiple = 2 * PATCH // task.scale
        self.codec = PixelUnshuffle(PATCH, LATENT_GAIN)
        self.network = UNet(2 * CHANNELS, CHANNELS, width=WIDTH, blocks=BLOCKS)

    def condition(self, inputs: ModelInput) -> Condition:
        return Condition(y=self.codec.encode(self.task.guess(inputs.lq)))


class Faithful(MiniModel):
    """Residual shifting (Yue et al. 2023) from the task's guess to the clean image, in a few steps.

    ``sample = y + F([z_t / sqrt(1 + noise(t)^2), y], t)``

    Args:
        steps: Network evaluations of :meth:`generate`.
        temperature: Size of the noise that :meth:`generate` starts with, as a share of the
            process's own. At 1 it draws one of the plausible images, grain included; toward 0 it
            approaches their mean, which has the higher PSNR.
        task: What it undoes.
    """

    prediction_type = "sample"
    process: ContinuousResidualShifting

    def __init__(
        self,
        steps: int = 4,
        temperature: float = 0.25,
        task: Task = SUPER_RESOLUTION,
    ) -> None:
        super().__init__(task)
        self.nfe = steps
        self.temperature = temperature
        self.process = ContinuousResidualShifting(kappa=0.2)

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        noise = self.process.coefficients(t).noise
        z_in = z_t / (1 + noise**2).sqrt()
        return condition.y + self.network(torch.cat([z_in, condition.y], 1), t)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """Go from ``y`` and noise to a clean latent in ``nfe`` equal steps of t.

        Each step goes to where the prediction says that ``z_t`` lies next.
        """
        y = condition.y
        assert y is not None
        timesteps = torch.linspace(self.process.t_max, 0, self.nfe + 1).tolist()
        noise = torch.randn(y.shape, generator=generator).to(y)
        z_t = y + self.temperature * self.process.kappa * timesteps[0] * noise
        prediction = self.predict(z_t, y.new_full((len(y),), timesteps[0]), condition)
        for timestep in timesteps[1:-1]:
            t = y.new_full((len(y),), timestep)
            z_t = self.process.add_noise(prediction.sample, prediction.epsilon, t, y)
            prediction = self.predict(z_t, t, condition)
        return prediction.sample


class FaithfulDct(Faithful):
    """The faithful model in another latent space: the same weights behind a rotation."""

    codec: BlockDct

    def __init__(self, steps: int = 4, temperature: float = 0.25) -> None:
        super().__init__(steps, temperature)
        self.codec = BlockDct(PATCH, LATENT_GAIN)

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        pixels = Condition(y=self.codec.unrotate(condition.y))
        return self.codec.rotate(super().forward(self.codec.unrotate(z_t), t, pixels))


class Realistic(MiniModel):
    """A one-step restorer that is also a denoiser at every timestep.

    It is variance preserving with ``signal = cos(pi t / 2)``, and ``sample = y + F([z_t, y], t)``.
    Restoring passes ``y`` as ``z_t`` at ``t = 1``, where it never saw noise:
    ``z_0 = sample(y, 1)``. The network started from the faithful model's weights.
    """

    prediction_type = "sample"
    start = 1.0
    """The timestep of the restoring step."""

    def __init__(self, task: Task = SUPER_RESOLUTION) -> None:
        super().__init__(task)
        self.process = CosineVariancePreserving()

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        return condition.y + self.network(torch.cat([z_t, condition.y], 1), t)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        y = condition.y
        assert y is not None
        t = y.new_full((len(y),), self.start)
        return self.predict(y, t, condition).sample
