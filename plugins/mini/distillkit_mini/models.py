"""The mini models: codec, forward process and denoiser of each. A task decides what they start from; all else is shared."""

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
WIDTH, BLOCKS = 48, (2, 3, 2)
LATENT_GAIN = 2.0
"""Latents are twice the pixels, which brings their spread near 1."""


def enlarge(lq: Tensor) -> Tensor:
    """Bicubic enlargement, (B, 3, h, w) -> (B, 3, 4 h, 4 w)."""
    return F.interpolate(lq, scale_factor=SCALE, mode="bicubic", align_corners=False)


EXPOSURE, GAMMA = 0.28, 2.15
"""What :func:`brighten` takes for granted: about the middle of what the low-light models were trained to undo."""


def brighten(lq: Tensor) -> Tensor:
    """``(x / EXPOSURE)^(1 / GAMMA)`` of x in [0, 1], the same for every pixel of every image; (B, 3, h, w) in [-1, 1].

    Not clamped, so that no highlight is lost. One fixed curve, not one for each image: how dark a pixel is tells how bright it was.
    """
    light = ((lq + 1) / 2).clamp(0, 1)
    return (light / EXPOSURE) ** (1 / GAMMA) * 2 - 1


@dataclass(frozen=True)
class Task:
    """What a mini model is asked to undo."""

    scale: int
    """Output size divided by input size."""
    guess: Callable[[Tensor], Tensor]
    """Inputs (B, 3, h, w) -> images of the output's size, without any learning: where the models start."""
    guess_name: str
    """Of that baseline in tables."""


SUPER_RESOLUTION = Task(SCALE, enlarge, "bicubic")
LOW_LIGHT = Task(1, brighten, "brightened")


def load_network(network: nn.Module, path: Path) -> None:
    """Fill ``network`` from a safetensors file, stored in half or full precision."""
    load_exactly(
        network, {name: value.float() for name, value in read_state_dict(path).items()}, path
    )


class MiniModel(DiffusionModel):
    """What they share: a latent of 48 channels at a quarter of the output's size, and ``y``, the encoded guess of the task."""

    head = "out"

    def __init__(self, task: Task = SUPER_RESOLUTION) -> None:
        super().__init__()
        self.task, self.scale, self.size_multiple = task, task.scale, PATCH // task.scale
        self.codec = PixelUnshuffle(PATCH, LATENT_GAIN)
        self.network = UNet(2 * CHANNELS, CHANNELS, width=WIDTH, blocks=BLOCKS)

    def condition(self, lq: Tensor) -> Condition:
        return Condition(y=self.codec.encode(self.task.guess(lq)))


class Faithful(MiniModel):
    """Residual shifting (Yue et al. 2023) from the task's guess to the clean image, in a few steps.

    ``clean = y + F([z_t / sqrt(1 + noise(t)^2), y], t)``

    Args:
        steps: network passes of :meth:`generate`.
        temperature: size of the noise that :meth:`generate` starts with, as a share of the process's own. At 1 it draws one of the
            plausible images, grain included; toward 0 it approaches their mean, which has the higher PSNR.
    """

    prediction_type = "sample"
    process: ContinuousResidualShifting

    def __init__(
        self, steps: int = 4, temperature: float = 0.25, task: Task = SUPER_RESOLUTION
    ) -> None:
        super().__init__(task)
        self.temperature = temperature
        self.process = ContinuousResidualShifting(kappa=0.2)
        self.nfe = steps

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        z_in = z_t / (1 + self.process.coefficients(t).noise ** 2).sqrt()
        return condition.y + self.network(torch.cat([z_in, condition.y], 1), t)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """From ``y`` and noise in ``passes`` equal steps of t, each to where the prediction says that ``z_t`` lies next."""
        y = condition.y
        assert y is not None
        times = torch.linspace(self.process.t_max, 0, self.nfe + 1)[:-1].tolist()
        noise = torch.randn(y.shape, generator=generator).to(y)
        z_t = y + self.temperature * self.process.kappa * times[0] * noise
        for now, later in zip(times, [*times[1:], None], strict=True):
            guess = self.predict(z_t, y.new_full((len(y),), now), condition)
            if later is None:
                break
            z_t = self.process.add_noise(
                guess.sample, guess.epsilon, y.new_full((len(y),), later), y
            )
        return guess.sample


class FaithfulDct(Faithful):
    """The faithful model in another latent space: the same weights, asked through the rotation between the two."""

    codec: BlockDct

    def __init__(self, steps: int = 4, temperature: float = 0.25) -> None:
        super().__init__(steps, temperature)
        self.codec = BlockDct(PATCH, LATENT_GAIN)

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        pixels = Condition(y=self.codec.unrotate(condition.y))
        return self.codec.rotate(super().forward(self.codec.unrotate(z_t), t, pixels))


class Realistic(MiniModel):
    """A one-step restorer that is also a denoiser at every time.

    Variance preserving, ``signal = cos(pi t / 2)``; ``clean = y + F([z_t, y], t)``. One step takes ``y`` for ``z_t`` at ``t = 1``,
    where it never saw noise: ``z_0 = clean(y, 1)``. The network is the faithful model's, trained on from its weights.
    """

    prediction_type = "sample"
    start = 1.0

    def __init__(self, task: Task = SUPER_RESOLUTION) -> None:
        super().__init__(task)
        self.process = CosineVariancePreserving()

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.y is not None
        return condition.y + self.network(torch.cat([z_t, condition.y], 1), t)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        assert condition.y is not None
        return self.predict(
            condition.y, condition.y.new_full((len(condition.y),), self.start), condition
        ).sample
