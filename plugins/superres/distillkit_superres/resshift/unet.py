"""The denoiser of ResShift and SinSR: a guided-diffusion UNet whose attention layers are Swin layers.

State-dict keys and shapes are those of the published checkpoints, buffers included.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillkit_superres.resshift.swin import GroupNorm, SwinLayer


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """``[cos(t w_i), sin(t w_i)]`` with ``w_i = 10000^(-i / half)``: times (B,) -> (B, width)."""
    half = width // 2
    angles = t.float()[:, None] * torch.exp(
        -math.log(10000) / half * torch.arange(half, device=t.device)
    )
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the time embedding. The second starts at zero."""

    def __init__(self, channels: int, out_channels: int, embed: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, 2 * out_channels))
        last = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.out_layers = nn.Sequential(GroupNorm(out_channels), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.emb_layers(embedding)[..., None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(self.in_layers(x)) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


def _downsample(channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)))


def _upsample(channels: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            nearest=nn.Upsample(scale_factor=2), conv=nn.Conv2d(channels, channels, 3, padding=1)
        )
    )


def _feature_extractor(channels: int, stages: int) -> tuple[nn.Module, int]:
    """Brings a low-quality image that is ``2^stages`` times the latent's size to that size; also returns its output channels."""
    layers: list[nn.Module] = []
    for i in range(stages):
        width = 16 * 2**i
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            _downsample(width, 2 * width),
        ]
        channels = 2 * width
    return nn.Sequential(*layers), channels


def _run(block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for layer in block.children():
        h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
    return h


class UNetModelSwin(nn.Module):
    """Latent, time and low-quality image in; latent out.

    Args:
        image_size: side of the square latent the network was designed for; Swin layers take their window rule from it.
        in_channels, out_channels: of the latent, without the low-quality image that is concatenated after it.
        model_channels, channel_mult, num_res_blocks: width of the first level, its multiples and the blocks of each level.
        attention_resolutions: latent sides at which a level has Swin layers (after its first block, both ways; the middle has one).
        num_head_channels, swin_depth, swin_embed_dim, window_size, mlp_ratio: of the Swin layers.
        lq_size: side of the low-quality image for a latent of ``image_size``; where larger, strided convolutions bring it down.
        lq_channels: 3, or 4 where a mask is appended to the image.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        channel_mult: Sequence[int],
        num_res_blocks: Sequence[int],
        attention_resolutions: Sequence[int],
        num_head_channels: int,
        swin_depth: int,
        swin_embed_dim: int,
        window_size: int,
        mlp_ratio: float,
        lq_size: int,
        lq_channels: int = 3,
    ) -> None:
        super().__init__()
        self.model_channels = model_channels
        embed = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embed), nn.SiLU(), nn.Linear(embed, embed)
        )
        self.feature_extractor, lq_features = _feature_extractor(
            lq_channels, int(math.log2(lq_size / image_size))
        )

        def swin(channels: int, resolution: int) -> SwinLayer:
            return SwinLayer(
                channels,
                swin_embed_dim,
                resolution,
                swin_depth,
                window_size,
                num_head_channels,
                mlp_ratio,
            )

        channels, resolution = model_channels * channel_mult[0], image_size
        blocks = [nn.Sequential(nn.Conv2d(in_channels + lq_features, channels, 3, padding=1))]
        skips = [channels]
        for level, (mult, depth) in enumerate(zip(channel_mult, num_res_blocks, strict=True)):
            if level > 0:
                blocks.append(nn.Sequential(_downsample(channels, channels)))
                skips.append(channels)
                resolution //= 2
            for i in range(depth):
                layers: list[nn.Module] = [ResBlock(channels, model_channels * mult, embed)]
                channels = model_channels * mult
                if resolution in attention_resolutions and i == 0:
                    layers.append(swin(channels, resolution))
                blocks.append(nn.Sequential(*layers))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(blocks)

        self.middle_block = nn.Sequential(
            ResBlock(channels, channels, embed),
            swin(channels, resolution),
            ResBlock(channels, channels, embed),
        )

        blocks = []
        for level, (mult, depth) in reversed(
            list(enumerate(zip(channel_mult, num_res_blocks, strict=True)))
        ):
            for i in range(depth + 1):
                layers = [ResBlock(channels + skips.pop(), model_channels * mult, embed)]
                channels = model_channels * mult
                if resolution in attention_resolutions and i == 0:
                    layers.append(swin(channels, resolution))
                if level > 0 and i == depth:
                    layers.append(_upsample(channels))
                    resolution *= 2
                blocks.append(nn.Sequential(*layers))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )

        self.size_multiple = _side_multiple(
            image_size, len(channel_mult), window_size, attention_resolutions
        )
        """Sides of a latent must be multiples of this."""

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """Latents ``x`` (B, C, h, w), already scaled, times ``t`` (B,), images ``lq`` (B, 3, ...) in [-1, 1] -> (B, C, h, w).

        Raises:
            ValueError: ``h`` or ``w`` is not a multiple of :attr:`size_multiple`.
        """
        if x.shape[2] % self.size_multiple or x.shape[3] % self.size_multiple:
            raise ValueError(
                f"latent is {x.shape[2]}x{x.shape[3]}; both sides must be multiples of {self.size_multiple}"
            )
        embedding = self.time_embed(timestep_embedding(t, self.model_channels).to(x.dtype))
        h = torch.cat([x, self.feature_extractor(lq.to(x.dtype))], dim=1)
        skips = []
        for block in self.input_blocks:
            h = _run(block, h, embedding)
            skips.append(h)
        h = _run(self.middle_block, h, embedding)
        for block in self.output_blocks:
            h = _run(block, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


def _side_multiple(
    image_size: int, levels: int, window: int, attention_resolutions: Sequence[int]
) -> int:
    """The smallest latent side that halves at every level and fills whole windows where there are Swin layers."""
    sides = [2 ** (levels - 1)]
    for level in range(levels):
        resolution = image_size // 2**level
        if resolution in attention_resolutions or level == levels - 1:
            sides.append(2**level * min(window, resolution))
    return math.lcm(*sides)
