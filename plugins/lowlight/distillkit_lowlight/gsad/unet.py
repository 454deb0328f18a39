"""The conditional U-Net of GSAD, with the layer names of its published weights.

It is the U-Net of SR3 (Saharia et al. 2021), conditioned on a continuous noise level, with a second
output: the per-pixel log-uncertainty of GSAD's training loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a :class:`UNet`, named as in the published options file."""

    in_channel: int = 6
    """Channels of the input: low-quality image and noisy image together."""
    out_channel: int = 3
    """Channels of each output."""
    inner_channel: int = 64
    """Channels of the first resolution, and of the noise-level embedding."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    channel_mults: Sequence[int] = (1, 1, 2, 2, 4)
    """Channels of each resolution, as multiples of ``inner_channel``."""
    attn_res: Sequence[int] = (16,)
    """Nominal sides at which there is attention, counted from ``image_size`` for any input."""
    res_blocks: int = 2
    """Residual blocks of each resolution on the way down; one more on the way up."""
    dropout: float = 0.0
    """Dropout of the second block of each residual block."""
    image_size: int = 128
    """Nominal side of the first resolution."""

    @property
    def size_multiple(self) -> int:
        """What the sides of an input have to be multiples of."""
        return 2 ** (len(self.channel_mults) - 1)

    def resolutions(self) -> list[_Resolution]:
        """List channels and attention of each resolution, finest first."""
        resolutions = []
        side = self.image_size
        for mult in self.channel_mults:
            width = self.inner_channel * mult
            resolutions.append(_Resolution(width, attention=side in self.attn_res))
            side //= 2
        return resolutions


@dataclass(frozen=True)
class _Resolution:
    width: int
    attention: bool


class NoiseLevelEncoding(nn.Module):
    """``[sin | cos](level exp(-ln(1e4) k / n))`` for k = 0..n-1 and n = channels / 2.

    The level is not rescaled.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, level: Tensor) -> Tensor:
        """Encode noise levels (B,) as vectors (B, channels)."""
        half = self.channels // 2
        index = torch.arange(half, dtype=level.dtype, device=level.device)
        frequency = torch.exp(-math.log(1e4) * (index / half))
        angle = level[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Shift(nn.Module):
    """Adds a linear function of the noise-level embedding to every pixel."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.noise_func = nn.Sequential(nn.Linear(embedding, channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift = self.noise_func(embedding)
        return x + shift[:, :, None, None]


class Block(nn.Module):
    """GroupNorm, SiLU, dropout, 3x3 convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(groups, inputs),
            nn.SiLU(),
            nn.Dropout(dropout),
            _conv3x3(inputs, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResBlock(nn.Module):
    """Two blocks with the noise-level embedding added between them."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # Never called. The published files hold its weights, so it exists.
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.mlp.requires_grad_(False)
        self.noise_func = Shift(embedding, outputs)
        self.block1 = Block(inputs, outputs, groups)
        self.block2 = Block(outputs, outputs, groups, dropout)
        self.res_conv = _shortcut(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.block1(x)
        h = self.noise_func(h, embedding)
        h = self.block2(h)
        return h + self.res_conv(x)


class SelfAttention(nn.Module):
    """One head over all pixels, logits divided by sqrt(channels), added to the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x))
        tokens = qkv.flatten(2).transpose(1, 2)
        q, k, v = tokens.chunk(3, dim=2)
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = attended.transpose(1, 2).reshape_as(x)
        return self.out(attended) + x


class Stage(nn.Module):
    """A residual block, followed by attention or by nothing."""

    def __init__(self, res_block: ResBlock, attention: nn.Module) -> None:
        super().__init__()
        self.res_block = res_block
        self.attn = attention

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
        self.conv = _conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """The denoiser: ``cat([lq, x_t])`` and a noise level to the noise in ``x_t``.

    On request it also predicts the log-uncertainty, which restoring does not use. ``var_conv``,
    which makes it, asks for no gradient, like the ``mlp`` layers that are never called.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.size_multiple = config.size_multiple
        self.noise_level_mlp = _embedding_mlp(config.inner_channel)
        # Seeded weights depend on the order in which the layers are made.
        self.downs, skips = _make_downs(config)
        width = skips[-1]
        self.mid = nn.ModuleList(
            [
                _make_stage(config, width, width, attention=True),
                _make_stage(config, width, width, attention=False),
            ]
        )
        self.ups, width = _make_ups(config, width, skips)
        self.final_conv = Block(width, config.out_channel, config.norm_groups)
        self.var_conv = _uncertainty_head(width, config.out_channel)
        self.var_conv.requires_grad_(False)

    def features(self, x: Tensor, level: Tensor) -> Tensor:
        """Compute the features that both outputs are made of.

        Args:
            x: ``cat([lq, x_t])``, shape (B, in_channel, H, W).
            level: Noise levels, shape (B,).

        Returns:
            Features of shape (B, C, H, W).
        """
        embedding = self.noise_level_mlp(level)
        x = self.downs[0](x)
        skips = [x]
        for layer in self.downs[1:]:
            x = layer(x, embedding)
            skips.append(x)
        for layer in self.mid:
            x = layer(x, embedding)
        for layer in self.ups:
            if isinstance(layer, Upsample):
                x = layer(x)
                continue
            x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, embedding)
        return x

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Predict the noise in ``x_t``.

        Args:
            x: ``cat([lq, x_t])``, the low-quality image first, shape (B, in_channel, H, W), in
                [-1, 1]; sides are multiples of :attr:`size_multiple`.
            level: ``sqrt(alpha_bar)``, shape (B,), in (0, 1).

        Returns:
            The noise, shape (B, out_channel, H, W).
        """
        return self.final_conv(self.features(x, level))

    def with_uncertainty(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Predict noise and log-uncertainty, each (B, out_channel, H, W)."""
        features = self.features(x, level)
        return self.final_conv(features), self.var_conv(features)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _shortcut(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return nn.Conv2d(inputs, outputs, 1)


def _make_stage(
    config: UNetConfig,
    inputs: int,
    outputs: int,
    attention: bool,
) -> Stage:
    res_block = ResBlock(
        inputs,
        outputs,
        embedding=config.inner_channel,
        groups=config.norm_groups,
        dropout=config.dropout,
    )
    if attention:
        return Stage(res_block, SelfAttention(outputs, config.norm_groups))
    return Stage(res_block, nn.Identity())


def _embedding_mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(
        NoiseLevelEncoding(channels),
        nn.Linear(channels, 4 * channels),
        nn.SiLU(),
        nn.Linear(4 * channels, channels),
    )


def _uncertainty_head(channels: int, out_channel: int) -> nn.Sequential:
    return nn.Sequential(
        _conv3x3(channels, channels),
        nn.ELU(),
        _conv3x3(channels, channels),
        nn.ELU(),
        _conv3x3(channels, out_channel),
        nn.ELU(),
    )


def _make_downs(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Make the way down; also return the channels of each layer's output."""
    channels = config.inner_channel
    layers = nn.ModuleList([_conv3x3(config.in_channel, channels)])
    widths = [channels]
    resolutions = config.resolutions()
    for resolution in resolutions:
        for _ in range(config.res_blocks):
            layers.append(_make_stage(config, channels, resolution.width, resolution.attention))
            channels = resolution.width
            widths.append(channels)
        if resolution is not resolutions[-1]:
            layers.append(Downsample(channels))
            widths.append(channels)
    return layers, widths


def _make_ups(
    config: UNetConfig,
    channels: int,
    skips: list[int],
) -> tuple[nn.ModuleList, int]:
    """Make the way up; also return the channels of its output.

    Args:
        config: Sizes of the network.
        channels: Channels that come in from below.
        skips: Channels of the skip connections, those of the coarsest last.
    """
    layers = nn.ModuleList()
    skips = list(skips)
    resolutions = config.resolutions()
    for resolution in reversed(resolutions):
        for _ in range(config.res_blocks + 1):
            inputs = channels + skips.pop()
            layers.append(_make_stage(config, inputs, resolution.width, resolution.attention))
            channels = resolution.width
        if resolution is not resolutions[0]:
            layers.append(Upsample(channels))
    return layers, channels
