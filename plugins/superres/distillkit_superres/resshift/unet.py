"""The denoiser of ResShift and SinSR.

It is a guided-diffusion UNet whose attention layers are Swin layers. State-dict keys and shapes are
those of the published checkpoints, buffers included.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit_superres.resshift.swin import GroupNorm32, SwinConfig, SwinLayer

LQ_WIDTH = 16
"""Channels of the first convolution that sees a low-quality image larger than the latent."""


@dataclass(frozen=True)
class SwinUNetConfig:
    """The sizes of a :class:`SwinUNet`, named as in the published configuration.

    The defaults are those of the published checkpoints.
    """

    image_size: int = 64
    """Side of the square latent the network was designed for; Swin layers take their window rule
    from it."""
    in_channels: int = 3
    """Channels of the latent, without the low-quality image that is concatenated after it."""
    out_channels: int = 3
    model_channels: int = 160
    channel_mult: Sequence[int] = (1, 2, 2, 4)
    """Channels of each level, as multiples of ``model_channels``."""
    num_res_blocks: Sequence[int] = (2, 2, 2, 2)
    """Residual blocks of each level on the way down; one more on the way up."""
    attention_resolutions: Sequence[int] = (64, 32, 16, 8)
    """Latent sides at which a level has Swin layers.

    A layer follows the level's first block, both ways; the middle always has one."""
    num_head_channels: int = 32
    swin_depth: int = 2
    swin_embed_dim: int = 192
    window_size: int = 8
    mlp_ratio: float = 4
    lq_size: int = 64
    """Side of the low-quality image for a latent of ``image_size``.

    Where it is larger, strided convolutions bring the image to the latent's size."""
    lq_channels: int = 3
    """3, or 4 where a mask is appended to the image."""

    @property
    def embed_dim(self) -> int:
        """Length of the timestep embedding."""
        return 4 * self.model_channels

    @property
    def swin(self) -> SwinConfig:
        """The sizes of the Swin layers."""
        return SwinConfig(
            embed_dim=self.swin_embed_dim,
            depth=self.swin_depth,
            window_size=self.window_size,
            head_channels=self.num_head_channels,
            mlp_ratio=self.mlp_ratio,
        )

    @property
    def size_multiple(self) -> int:
        """The smallest latent side that suits every level.

        It halves at every level and fills full windows where there are Swin layers.
        """
        levels = self.levels()
        multiples = [2 ** (len(levels) - 1)]
        for i, level in enumerate(levels):
            if level.has_swin or level is levels[-1]:
                window = min(self.window_size, level.resolution)
                multiples.append(2**i * window)
        return math.lcm(*multiples)

    def levels(self) -> list[_Level]:
        """List the levels, finest first."""
        levels = []
        resolution = self.image_size
        for mult, depth in zip(self.channel_mult, self.num_res_blocks, strict=True):
            levels.append(
                _Level(
                    width=self.model_channels * mult,
                    depth=depth,
                    resolution=resolution,
                    has_swin=resolution in self.attention_resolutions,
                )
            )
            resolution //= 2
        return levels


@dataclass(frozen=True)
class _Level:
    width: int
    depth: int
    resolution: int
    has_swin: bool


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Embed timesteps (B,) as ``[cos(t w_i), sin(t w_i)]``, shape (B, width).

    The frequencies are ``w_i = 10000^(-i / half)`` with ``half = width / 2``.
    """
    half = width // 2
    index = torch.arange(half, device=t.device)
    frequencies = torch.exp(-math.log(10000) / half * index)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the timestep embedding.

    The second convolution starts at zero.
    """

    def __init__(self, channels: int, out_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm32(channels),
            nn.SiLU(),
            _conv3x3(channels, out_channels),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(embed_dim, 2 * out_channels),
        )
        last = _conv3x3(out_channels, out_channels)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Identity(),  # the published code's dropout, which is off; it counts in the keys
            last,
        )
        self.skip_connection = _shortcut(channels, out_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        modulation = self.emb_layers(embedding)[..., None, None]
        scale, shift = modulation.chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(self.in_layers(x))
        h = h * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class SwinUNet(nn.Module):
    """Predicts the clean latent from a noisy one, its timestep and the low-quality image.

    Sides of a latent must be multiples of :attr:`size_multiple`.
    """

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        self.model_channels = config.model_channels
        self.size_multiple = config.size_multiple
        # Seeded weights depend on the order in which the layers are made.
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, config.embed_dim),
            nn.SiLU(),
            nn.Linear(config.embed_dim, config.embed_dim),
        )
        self.feature_extractor, lq_features = _make_feature_extractor(config)
        self.input_blocks, skips = _make_input_blocks(config, config.in_channels + lq_features)
        channels = skips[-1]
        resolution = config.levels()[-1].resolution
        self.middle_block = nn.Sequential(
            ResBlock(channels, channels, config.embed_dim),
            SwinLayer(channels, resolution, config.swin),
            ResBlock(channels, channels, config.embed_dim),
        )
        self.output_blocks, channels = _make_output_blocks(config, channels, skips)
        self.out = nn.Sequential(
            GroupNorm32(channels),
            nn.SiLU(),
            _conv3x3(channels, config.out_channels),
        )

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """Predict clean latents.

        Args:
            x: Noisy latents, already scaled, shape (B, C, h, w).
            t: Timesteps, shape (B,).
            lq: Low-quality images, shape (B, lq_channels, ...), in [-1, 1].

        Returns:
            Latents of shape (B, C, h, w).

        Raises:
            ValueError: h or w is not a multiple of :attr:`size_multiple`.
        """
        height, width = x.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"latent is {height}x{width}; both sides must be multiples of {self.size_multiple}"
            )
        embedding = timestep_embedding(t, self.model_channels)
        embedding = self.time_embed(embedding.to(x.dtype))
        lq_features = self.feature_extractor(lq.to(x.dtype))
        h = torch.cat([x, lq_features], dim=1)
        skips = []
        for block in self.input_blocks:
            h = _run(block, h, embedding)
            skips.append(h)
        h = _run(self.middle_block, h, embedding)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            h = _run(block, h, embedding)
        return self.out(h)


def _run(block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for layer in block.children():
        h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
    return h


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _shortcut(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return nn.Conv2d(inputs, outputs, 1)


def _make_downsample(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(OrderedDict(op=_conv3x3(inputs, outputs, stride=2)))


def _make_upsample(channels: int) -> nn.Module:
    layers = OrderedDict[str, nn.Module](
        nearest=nn.Upsample(scale_factor=2),
        conv=_conv3x3(channels, channels),
    )
    return nn.Sequential(layers)


def _make_feature_extractor(config: SwinUNetConfig) -> tuple[nn.Module, int]:
    """Make the layers that bring the low-quality image to the latent's size.

    Returns:
        The layers, and the channels of their output.
    """
    layers = nn.Sequential()
    channels = config.lq_channels
    halvings = int(math.log2(config.lq_size / config.image_size))
    for i in range(halvings):
        width = LQ_WIDTH * 2**i
        layers.append(_conv3x3(channels, width))
        layers.append(nn.SiLU())
        layers.append(_make_downsample(width, 2 * width))
        channels = 2 * width
    return layers, channels


def _make_input_blocks(
    config: SwinUNetConfig,
    inputs: int,
) -> tuple[nn.ModuleList, list[int]]:
    """Make the way down; also return the channels of each block's output."""
    levels = config.levels()
    channels = levels[0].width
    blocks = nn.ModuleList([nn.Sequential(_conv3x3(inputs, channels))])
    widths = [channels]
    for level in levels:
        if level is not levels[0]:
            blocks.append(nn.Sequential(_make_downsample(channels, channels)))
            widths.append(channels)
        for i in range(level.depth):
            block = _make_block(config, level, channels, with_swin=i == 0)
            blocks.append(block)
            channels = level.width
            widths.append(channels)
    return blocks, widths


def _make_output_blocks(
    config: SwinUNetConfig,
    channels: int,
    skips: list[int],
) -> tuple[nn.ModuleList, int]:
    """Make the way up; also return the channels of its output.

    Args:
        config: Sizes of the network.
        channels: Channels that come in from below.
        skips: Channels of the skip connections, those of the coarsest level last.
    """
    blocks = nn.ModuleList()
    skips = list(skips)
    levels = config.levels()
    for level in reversed(levels):
        for i in range(level.depth + 1):
            inputs = channels + skips.pop()
            block = _make_block(config, level, inputs, with_swin=i == 0)
            channels = level.width
            if i == level.depth and level is not levels[0]:
                block.append(_make_upsample(channels))
            blocks.append(block)
    return blocks, channels


def _make_block(
    config: SwinUNetConfig,
    level: _Level,
    inputs: int,
    with_swin: bool,
) -> nn.Sequential:
    """Make a residual block of a level, followed by a Swin layer where the level has those."""
    block = nn.Sequential(ResBlock(inputs, level.width, config.embed_dim))
    if with_swin and level.has_swin:
        block.append(SwinLayer(level.width, level.resolution, config.swin))
    return block
