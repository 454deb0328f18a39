"""The vector-quantized autoencoder of latent diffusion, with its published state-dict keys.

Its latents have 4x smaller sides and 3 channels. They are the encoder's continuous output; decoding
replaces each by its nearest code first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NamedLayers = OrderedDict[str, nn.Module]

TOKENS_AT_ONCE = 1024
"""Latent vectors whose distances to all codes are held at once: 32 MB for 8192 codes."""


@dataclass(frozen=True)
class VQConfig:
    """The sizes of a :class:`VQModel`; the defaults are those of the published checkpoint."""

    embed_dim: int = 3
    """Length of a code."""
    n_embed: int = 8192
    """Number of codes."""
    z_channels: int = 3
    """Channels between encoder and codes."""
    channels: int = 128
    """Channels of the first level."""
    channel_mult: Sequence[int] = (1, 2, 4)
    """Channels of each level, as multiples of ``channels``; each but the last halves the sides."""
    num_res_blocks: Sequence[int] = (2, 2, 2)
    """Residual blocks of each level of the encoder; the decoder has one more."""
    in_channels: int = 3
    """Channels of the image that is encoded."""
    out_channels: int = 3
    """Channels of the decoded image."""

    @property
    def widths(self) -> list[int]:
        """The channels of each level, finest first."""
        return [self.channels * mult for mult in self.channel_mult]


class ResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = _conv3x3(channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        # Without a change of channels the published checkpoint has no shortcut layer.
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return h + x


class Attention(nn.Module):
    """Single-head attention among all positions.

    The fused kernel never holds the score matrix, which takes 1 GB for an image of 512 px.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q = _as_tokens(self.q(h))
        k = _as_tokens(self.k(h))
        v = _as_tokens(self.v(h))
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)


def _as_tokens(features: Tensor) -> Tensor:
    """Arrange (B, C, h, w) as (B, 1, h w, C), contiguous.

    Fused kernels want a dimension for heads and adjacent channels.
    """
    return features.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _make_middle(channels: int) -> nn.Sequential:
    layers = _NamedLayers(
        block_1=ResnetBlock(channels, channels),
        attn_1=Attention(channels),
        block_2=ResnetBlock(channels, channels),
    )
    return nn.Sequential(layers)


def _make_blocks(channels: int, out_channels: int, depth: int) -> nn.Sequential:
    blocks = nn.Sequential()
    for _ in range(depth):
        blocks.append(ResnetBlock(channels, out_channels))
        channels = out_channels
    return blocks


def _make_encoder(config: VQConfig) -> nn.Sequential:
    widths = config.widths
    down = nn.Sequential()
    channels = widths[0]
    for i, (width, depth) in enumerate(zip(widths, config.num_res_blocks, strict=True)):
        level = _NamedLayers(block=_make_blocks(channels, width, depth))
        if i < len(widths) - 1:
            level["downsample"] = _make_downsample(width)
        down.append(nn.Sequential(level))
        channels = width
    layers = _NamedLayers(
        conv_in=_conv3x3(config.in_channels, widths[0]),
        down=down,
        mid=_make_middle(channels),
        norm_out=_norm(channels),
        silu=nn.SiLU(),
        conv_out=_conv3x3(channels, config.z_channels),
    )
    return nn.Sequential(layers)


def _make_decoder(config: VQConfig) -> nn.Sequential:
    widths = config.widths
    channels = widths[-1]
    up = _NamedLayers()
    for i in reversed(range(len(widths))):
        depth = config.num_res_blocks[i] + 1
        level = _NamedLayers(block=_make_blocks(channels, widths[i], depth))
        if i > 0:
            level["upsample"] = _make_upsample(widths[i])
        up[str(i)] = nn.Sequential(level)
        channels = widths[i]
    layers = _NamedLayers(
        conv_in=_conv3x3(config.z_channels, widths[-1]),
        mid=_make_middle(widths[-1]),
        up=nn.Sequential(up),
        norm_out=_norm(channels),
        silu=nn.SiLU(),
        conv_out=_conv3x3(channels, config.out_channels),
    )
    return nn.Sequential(layers)


def _make_downsample(channels: int) -> nn.Sequential:
    # Padded at the right and bottom only, as in the published code.
    layers = _NamedLayers(
        pad=nn.ZeroPad2d((0, 1, 0, 1)),
        conv=nn.Conv2d(channels, channels, 3, stride=2),
    )
    return nn.Sequential(layers)


def _make_upsample(channels: int) -> nn.Sequential:
    layers = _NamedLayers(
        nearest=nn.Upsample(scale_factor=2),
        conv=_conv3x3(channels, channels),
    )
    return nn.Sequential(layers)


class Codebook(nn.Module):
    """Replaces each latent vector by the nearest code.

    Args:
        codes: Number of codes.
        width: Length of a code.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Find the index of the nearest code of latents (B, C, h, w).

        Returns:
            Shape (B, h, w).
        """
        codes = self.embedding.weight.float()
        tokens = z.permute(0, 2, 3, 1).flatten(0, 2).float()
        indices = []
        for chunk in tokens.split(TOKENS_AT_ONCE):
            # Exact distances: those by matrix product are too coarse to choose between codes.
            distances = torch.cdist(chunk, codes, compute_mode="donot_use_mm_for_euclid_dist")
            indices.append(distances.argmin(dim=1))
        batch, _, height, width = z.shape
        return torch.cat(indices).view(batch, height, width)

    def forward(self, z: Tensor) -> Tensor:
        """Replace latents (B, C, h, w) by their nearest codes.

        The gradient passes straight through, as if nothing were replaced.
        """
        quantized = self.embedding(self.nearest(z))
        quantized = quantized.permute(0, 3, 1, 2)
        return z + (quantized - z).detach()


class VQModel(nn.Module):
    """Vector-quantized autoencoder."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        # Seeded weights depend on the order in which the layers are made.
        self.encoder = _make_encoder(config)
        self.decoder = _make_decoder(config)
        self.quantize = Codebook(config.n_embed, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.factor = 2 ** (len(config.widths) - 1)
        """Image side divided by latent side."""

    def encode(self, image: Tensor) -> Tensor:
        """Encode images to continuous latents.

        Args:
            image: Shape (B, 3, H, W), in [-1, 1].

        Returns:
            Shape (B, embed_dim, H / factor, W / factor).
        """
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: Tensor, force_not_quantize: bool = False) -> Tensor:
        """Decode latents to images.

        Args:
            latent: Shape (B, embed_dim, h, w).
            force_not_quantize: Decode the latent itself instead of its nearest codes.

        Returns:
            Images of shape (B, 3, factor h, factor w), not clamped.
        """
        if not force_not_quantize:
            latent = self.quantize(latent)
        return self.decoder(self.post_quant_conv(latent))
