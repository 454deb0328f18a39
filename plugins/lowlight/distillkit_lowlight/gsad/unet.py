"""The conditional U-Net of GSAD, with the layer names of its published weights.

It is the U-Net of SR3 (Saharia et al. 2021), conditioned on a continuous noise level, with a second output: the per-pixel
log-uncertainty of GSAD's training loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LevelEncoding(nn.Module):
    """``[sin | cos](level exp(-ln(1e4) k / n))`` for k = 0..n-1, n = channels / 2; the level is not rescaled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, level: Tensor) -> Tensor:
        """Levels (B,) -> (B, channels)."""
        n = self.channels // 2
        k = torch.arange(n, dtype=level.dtype, device=level.device) / n
        angle = level[:, None] * torch.exp(-math.log(1e4) * k)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Shift(nn.Module):
    """Adds a linear function of the level embedding to every pixel."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.noise_func = nn.Sequential(nn.Linear(embedding, channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return x + self.noise_func(embedding)[:, :, None, None]


class Block(nn.Module):
    """GroupNorm, SiLU, dropout, 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(groups, inputs),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResBlock(nn.Module):
    """Two blocks with the level embedding added between them.

    ``mlp`` is never called. The published files hold its weights, so it exists.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs)).requires_grad_(False)
        self.noise_func = Shift(embedding, outputs)
        self.block1 = Block(inputs, outputs, groups)
        self.block2 = Block(outputs, outputs, groups, dropout)
        self.res_conv = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.block2(self.noise_func(self.block1(x), embedding)) + self.res_conv(x)


class SelfAttention(nn.Module):
    """One head over all pixels, logits divided by sqrt(channels), added to the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape_as(x)) + x


class Stage(nn.Module):
    """A residual block, followed by attention where asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        groups: int,
        dropout: float,
        attention: bool,
    ) -> None:
        super().__init__()
        self.res_block = ResBlock(inputs, outputs, embedding, groups, dropout)
        self.attn = SelfAttention(outputs, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attn(self.res_block(x, embedding))


class Downsample(nn.Module):
    """Halves the sides by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles the sides: nearest neighbor, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """The denoiser: ``cat([lq, x_t])`` and a noise level -> the noise, and on request the log-uncertainty.

    Args:
        in_channel, out_channel: channels of the input (low-quality image and noisy image together) and of each output.
        inner_channel: channels of the first level and of the level embedding; level i has ``channel_mults[i]`` times as many.
        norm_groups: groups of every GroupNorm.
        channel_mults: one entry per level; sides must be multiples of ``2 ** (len(channel_mults) - 1)``, see ``size_multiple``.
        attn_res: nominal sides at which the levels have attention, counted from ``image_size`` whatever the real size is.
        res_blocks: blocks per level on the way down (one more on the way up).
        dropout: of the second block of each residual block.
        image_size: nominal side of the first level.

    ``var_conv`` makes the uncertainty and is not used for restoring. Like the dead ``mlp`` layers it asks for no gradient.
    """

    def __init__(
        self,
        in_channel: int = 6,
        out_channel: int = 3,
        inner_channel: int = 64,
        norm_groups: int = 32,
        channel_mults: Sequence[int] = (1, 1, 2, 2, 4),
        attn_res: Sequence[int] = (16,),
        res_blocks: int = 2,
        dropout: float = 0.0,
        image_size: int = 128,
    ) -> None:
        super().__init__()
        self.size_multiple = 2 ** (len(channel_mults) - 1)
        c = inner_channel
        self.noise_level_mlp = nn.Sequential(
            LevelEncoding(c), nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, c)
        )

        def stage(inputs: int, outputs: int, attention: bool) -> Stage:
            return Stage(inputs, outputs, inner_channel, norm_groups, dropout, attention)

        levels = [(c * m, image_size // 2**i in attn_res) for i, m in enumerate(channel_mults)]
        downs: list[nn.Module] = [nn.Conv2d(in_channel, c, 3, padding=1)]
        skips = [c]
        for i, (width, attention) in enumerate(levels):
            for _ in range(res_blocks):
                downs.append(stage(c, width, attention))
                c = width
                skips.append(c)
            if i < len(levels) - 1:
                downs.append(Downsample(c))
                skips.append(c)
        self.downs = nn.ModuleList(downs)
        self.mid = nn.ModuleList([stage(c, c, True), stage(c, c, False)])
        ups: list[nn.Module] = []
        for i, (width, attention) in reversed(list(enumerate(levels))):
            for _ in range(res_blocks + 1):
                ups.append(stage(c + skips.pop(), width, attention))
                c = width
            if i > 0:
                ups.append(Upsample(c))
        self.ups = nn.ModuleList(ups)
        self.final_conv = Block(c, out_channel, norm_groups)
        self.var_conv = nn.Sequential(
            *(nn.Conv2d(c, c, 3, padding=1), nn.ELU()),
            *(nn.Conv2d(c, c, 3, padding=1), nn.ELU()),
            *(nn.Conv2d(c, out_channel, 3, padding=1), nn.ELU()),
        ).requires_grad_(False)

    def features(self, x: Tensor, level: Tensor) -> Tensor:
        """What both outputs are made of: inputs (B, in_channel, H, W), levels (B,) -> (B, C, H, W)."""
        embedding = self.noise_level_mlp(level)
        x = self.downs[0](x)
        skips = [x]
        for layer in self.downs[1:]:
            x = layer(x, embedding)
            skips.append(x)
        for layer in self.mid:
            x = layer(x, embedding)
        for layer in self.ups:
            x = (
                layer(x)
                if isinstance(layer, Upsample)
                else layer(torch.cat([x, skips.pop()], dim=1), embedding)
            )
        return x

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The noise in ``x_t``.

        Args:
            x: ``cat([lq, x_t])``, low-quality image first, (B, in_channel, H, W) in [-1, 1].
            level: ``sqrt(alpha_bar)``, (B,), in (0, 1).
        """
        return self.final_conv(self.features(x, level))

    def with_uncertainty(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs, noise and log-uncertainty, each (B, out_channel, H, W)."""
        features = self.features(x, level)
        return self.final_conv(features), self.var_conv(features)
