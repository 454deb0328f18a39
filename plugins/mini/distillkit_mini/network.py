"""The denoiser of every mini model: a convolutional U-Net of two levels.

Feature-wise modulation (FiLM) tells its blocks the timestep.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_FEATURES = 64
HIGHEST_FREQUENCY = 1000


def time_features(t: Tensor) -> Tensor:
    """Compute sines and cosines of timesteps in [0, 1], (B,) -> (B, 64).

    The frequencies go from 1 to 1000 in geometric progression.
    """
    half = TIME_FEATURES // 2
    spacing = math.log(HIGHEST_FREQUENCY) / (half - 1)
    frequencies = torch.exp(torch.arange(half, device=t.device) * spacing)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class Block(nn.Module):
    """``x + conv(silu((1 + scale) conv(silu(x)) + shift))``, scale and shift from the timestep."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.film = nn.Linear(time_width, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        # A new block changes nothing.
        for parameter in (*self.film.parameters(), *self.second.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        film = self.film(time)[..., None, None]
        scale, shift = film.chunk(2, dim=1)
        hidden = self.first(F.silu(x))
        hidden = (1 + scale) * hidden + shift
        return x + self.second(F.silu(hidden))


class UNet(nn.Module):
    """Maps latents (B, inputs, h, w) and timesteps (B,) in [0, 1] to (B, outputs, h, w).

    Height and width may be anything. There is no normalization: the output at a place depends on
    its surroundings only, so that a tile comes out as it does in the full image.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        width: Channels of the upper level. The lower one, at half the resolution, has twice as
            many.
        blocks: Residual blocks on the way down, in the middle and on the way up.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        blocks: tuple[int, int, int] = (2, 4, 2),
    ) -> None:
        super().__init__()
        down, middle, up = blocks
        time_width = 2 * width
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, time_width),
            nn.SiLU(),
            nn.Linear(time_width, time_width),
            nn.SiLU(),
        )
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.down = _blocks(down, width, time_width)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = _blocks(middle, 2 * width, time_width)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.up = _blocks(up, width, time_width)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_features(t))
        x = self.enter(x)
        for block in self.down:
            x = block(x, time)
        low = self.shrink(x)
        for block in self.middle:
            low = block(low, time)
        low = F.interpolate(low, size=x.shape[-2:], mode="nearest")
        x = self.join(torch.cat([x, self.grow(low)], 1))
        for block in self.up:
            x = block(x, time)
        return self.out(F.silu(x))


def _blocks(count: int, width: int, time_width: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, time_width) for _ in range(count))
