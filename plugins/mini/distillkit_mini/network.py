"""The denoiser of every mini model: a convolutional U-Net of two levels, told the time by feature-wise modulation (FiLM)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_FEATURES = 64


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines of times in [0, 1], (B,) -> (B, 64), at frequencies from 1 to 1000 in geometric progression."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (math.log(1000) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class Block(nn.Module):
    """``x + conv(silu((1 + scale) conv(silu(x)) + shift))`` with scale and shift from the time."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.film = nn.Linear(time_width, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for parameter in (*self.film.parameters(), *self.second.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[..., None, None].chunk(2, dim=1)
        return x + self.second(F.silu((1 + scale) * self.first(F.silu(x)) + shift))


class UNet(nn.Module):
    """Latents (B, inputs, h, w) and times (B,) in [0, 1] -> (B, outputs, h, w), for any h and w.

    Args:
        inputs, outputs: channels. width: of the upper level; the lower one, at half the resolution, is twice as wide.
        blocks: residual blocks on the way down, in the middle and on the way up.

    There is no normalization: the output at a place depends on its surroundings only, so that a tile gives what the image gives.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: tuple[int, int, int] = (2, 4, 2)
    ) -> None:
        super().__init__()
        time_width = 2 * width
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, time_width),
            nn.SiLU(),
            nn.Linear(time_width, time_width),
            nn.SiLU(),
        )
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.down = nn.ModuleList(Block(width, time_width) for _ in range(blocks[0]))
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(Block(2 * width, time_width) for _ in range(blocks[1]))
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.up = nn.ModuleList(Block(width, time_width) for _ in range(blocks[2]))
        self.out = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_features(t))
        x = self.enter(x)
        for block in self.down:
            x = block(x, time)
        low = self.shrink(x)
        for block in self.middle:
            low = block(low, time)
        low = self.grow(F.interpolate(low, size=x.shape[-2:], mode="nearest"))
        x = self.join(torch.cat([x, low], 1))
        for block in self.up:
            x = block(x, time)
        return self.out(F.silu(x))
