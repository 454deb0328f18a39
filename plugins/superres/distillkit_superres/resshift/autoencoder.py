"""The vector-quantized autoencoder of latent diffusion (4x smaller sides, 3 channels), with its published state-dict keys.

Latents are the encoder's continuous output; decoding replaces each by its nearest code first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_Named = OrderedDict[str, nn.Module]

_TOKENS_AT_ONCE = 1024
"""Latent vectors whose distances to all codes are held at once: 32 MB for 8192 codes."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Single-head attention among all positions. The fused kernel never holds the score matrix (1 GB for an image of 512 px)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # fused kernels want one head and adjacent channels: (B, 1, h w, C), contiguous
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
            for layer in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        _Named(
            block_1=ResnetBlock(channels, channels),
            attn_1=Attention(channels),
            block_2=ResnetBlock(channels, channels),
        )
    )


def _blocks(channels: int, out_channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(
        *(ResnetBlock(channels if i == 0 else out_channels, out_channels) for i in range(depth))
    )


def _head(channels: int, out_channels: int) -> _Named:
    return _Named(
        norm_out=_norm(channels),
        silu=nn.SiLU(),
        conv_out=nn.Conv2d(channels, out_channels, 3, padding=1),
    )


def _encoder(
    in_channels: int, z_channels: int, widths: Sequence[int], depths: Sequence[int]
) -> nn.Sequential:
    levels = []
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        level = _Named(block=_blocks(widths[max(i - 1, 0)], width, depth))
        if i < len(widths) - 1:
            conv = nn.Conv2d(width, width, 3, stride=2)
            level["downsample"] = nn.Sequential(_Named(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=conv))
        levels.append(nn.Sequential(level))
    start = _Named(
        conv_in=nn.Conv2d(in_channels, widths[0], 3, padding=1),
        down=nn.Sequential(*levels),
        mid=_middle(widths[-1]),
    )
    return nn.Sequential(start | _head(widths[-1], z_channels))


def _decoder(
    z_channels: int, out_channels: int, widths: Sequence[int], depths: Sequence[int]
) -> nn.Sequential:
    levels = _Named()
    for i in reversed(range(len(widths))):
        level = _Named(block=_blocks(widths[min(i + 1, len(widths) - 1)], widths[i], depths[i] + 1))
        if i > 0:
            conv = nn.Conv2d(widths[i], widths[i], 3, padding=1)
            level["upsample"] = nn.Sequential(
                _Named(nearest=nn.Upsample(scale_factor=2), conv=conv)
            )
        levels[str(i)] = nn.Sequential(level)
    start = _Named(
        conv_in=nn.Conv2d(z_channels, widths[-1], 3, padding=1),
        mid=_middle(widths[-1]),
        up=nn.Sequential(levels),
    )
    return nn.Sequential(start | _head(widths[0], out_channels))


class Codebook(nn.Module):
    """Replaces each latent vector by the nearest of ``codes`` vectors."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Index of the nearest code, (B, C, h, w) -> (B, h, w)."""
        codes = self.embedding.weight.float()
        tokens = z.permute(0, 2, 3, 1).flatten(0, 2).float()
        found = [
            torch.cdist(chunk, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
            for chunk in tokens.split(_TOKENS_AT_ONCE)
        ]
        return torch.cat(found).view(z.shape[0], *z.shape[2:])

    def forward(self, z: Tensor) -> Tensor:
        """The nearest codes, (B, C, h, w). The gradient passes straight through, as if nothing were replaced."""
        quantized = self.embedding(self.nearest(z)).permute(0, 3, 1, 2)
        return z + (quantized - z).detach()


class VQModel(nn.Module):
    """Vector-quantized autoencoder.

    Args:
        embed_dim, n_embed: width and number of the codes.
        z_channels: channels between encoder and codes. in_channels, out_channels: of the image.
        channels, channel_mult, num_res_blocks: width of the first level, its multiples and the blocks of each level; each level but
            the last halves the sides.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        n_embed: int,
        z_channels: int,
        channels: int,
        channel_mult: Sequence[int],
        num_res_blocks: Sequence[int],
        in_channels: int = 3,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [channels * mult for mult in channel_mult]
        self.encoder = _encoder(in_channels, z_channels, widths, num_res_blocks)
        self.decoder = _decoder(z_channels, out_channels, widths, num_res_blocks)
        self.quantize = Codebook(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        self.factor = 2 ** (len(widths) - 1)
        """Image side divided by latent side."""

    def encode(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> continuous latents (B, embed_dim, H / factor, W / factor)."""
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: Tensor, force_not_quantize: bool = False) -> Tensor:
        """Latents (B, embed_dim, h, w) -> images (B, 3, factor h, factor w), not clamped.

        ``force_not_quantize`` decodes the latent itself instead of its nearest codes.
        """
        return self.decoder(
            self.post_quant_conv(latent if force_not_quantize else self.quantize(latent))
        )
