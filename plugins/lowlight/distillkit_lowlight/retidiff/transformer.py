"""The restoring transformer: a U-shape of channel-attention blocks (Restormer), modulated by two prior vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit_lowlight.retidiff.decomposition import Decomposition, recompose


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every pixel; without bias the mean is left in (Restormer's "BiasFree")."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        scale = (
            centered.square().mean(1, keepdim=True) + self.body.eps
        ).rsqrt() * self.body.weight[:, None, None]
        return (
            x * scale
            if self.body.bias is None
            else centered * scale + self.body.bias[:, None, None]
        )


def modulate(x: Tensor, kernel: nn.Module, prior: Tensor) -> Tensor:
    """``x (1 + kernel(prior))``, a factor per channel."""
    return x * (1 + kernel(prior))[:, :, None, None]


def _kernel(prior: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(prior, channels, bias=False))


def _depthwise(channels: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention between the channels of a head, (B, C, H, W) each; ``temperature`` (heads, 1, 1) multiplies the cosines."""
    heads = temperature.shape[0]
    q, k, v = (m.unflatten(1, (heads, -1)).flatten(3) for m in (q, k, v))
    cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return (cosines * temperature).softmax(-1) @ v


class RetinexAttention(nn.Module):
    """Queries from the reflectance channels (first three quarters), keys and values from the illumination channels (the rest)."""

    def __init__(self, dim: int, heads: int, bias: bool, prior: int) -> None:
        super().__init__()
        self.split = [dim * 3 // 4, dim - dim * 3 // 4]
        self.prior_split = [prior * 3 // 4, prior - prior * 3 // 4]
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kernel_R = _kernel(self.prior_split[0], self.split[0])
        self.kernel_I = _kernel(self.prior_split[1], self.split[1])
        self.q_R = nn.Conv2d(self.split[0], dim, 1, bias=bias)
        self.q_dwconv = _depthwise(dim, bias)
        self.kv_I = nn.Conv2d(self.split[1], 2 * dim, 1, bias=bias)
        self.kv_dwconv = _depthwise(2 * dim, bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        reflectance, illumination = x.split(self.split, dim=1)
        of_reflectance, of_illumination = prior.split(self.prior_split, dim=1)
        q = self.q_dwconv(self.q_R(modulate(reflectance, self.kernel_R, of_reflectance)))
        k, v = self.kv_dwconv(
            self.kv_I(modulate(illumination, self.kernel_I, of_illumination))
        ).chunk(2, dim=1)
        return self.project_out(channel_attention(q, k, v, self.temperature).reshape(x.shape))


class Attention(nn.Module):
    """Ordinary channel attention on modulated features."""

    def __init__(self, dim: int, heads: int, bias: bool, prior: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kernel = _kernel(prior, dim)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = _depthwise(3 * dim, bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        q, k, v = self.qkv_dwconv(self.qkv(modulate(x, self.kernel, prior))).chunk(3, dim=1)
        return self.project_out(channel_attention(q, k, v, self.temperature).reshape(x.shape))


class FeedForward(nn.Module):
    """Gated feed-forward on modulated features."""

    def __init__(self, dim: int, expansion: float, bias: bool, prior: int) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.kernel = _kernel(prior, dim)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = _depthwise(2 * hidden, bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(modulate(x, self.kernel, prior))).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class Block(nn.Module):
    """Attention and feed-forward, each normalized before and added to its input."""

    def __init__(
        self, attention: nn.Module, feed_forward: nn.Module, dim: int, norm_bias: bool
    ) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim, norm_bias)
        self.attn = attention
        self.norm2 = ChannelNorm(dim, norm_bias)
        self.ffn = feed_forward

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), prior)
        return x + self.ffn(self.norm2(x), prior)


class Resample(nn.Module):
    """A 3x3 convolution, then pixels to channels (sides halved) or back (sides doubled); ``channels`` per level change by 2."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels * 2 if up else channels // 2, 3, padding=1, bias=False),
            shuffle,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    """A 3x3 convolution without bias."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Transformer(nn.Module):
    """Low-light image and two priors -> restored image, (B, 3, H, W) nominally in [0, 1], sides multiples of 8.

    Args:
        prior: length of a prior vector. training_head: build ``decom``, the decomposition head that only training uses.
        others: as in the published options file; ``num_blocks`` and ``heads`` have one entry per level.
    """

    def __init__(
        self,
        prior: int,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 64,
        num_blocks: Sequence[int] = (3, 3, 3, 3),
        num_refinement_blocks: int = 3,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",  # noqa: N803 - the published option's name
        training_head: bool = False,
    ) -> None:
        super().__init__()
        norm_bias = LayerNorm_type == "WithBias"

        def level(
            width: int, n_heads: int, n: int, attention: type[RetinexAttention] | type[Attention]
        ) -> nn.ModuleList:
            def block() -> Block:
                feed_forward = FeedForward(width, ffn_expansion_factor, bias, prior)
                return Block(attention(width, n_heads, bias, prior), feed_forward, width, norm_bias)

            return nn.ModuleList(block() for _ in range(n))

        d1, d2, d3, d4 = (dim * 2**i for i in range(4))
        if training_head:
            self.decom = Decomposition(dim, dim)
        self.patch_embed = PatchEmbed(inp_channels, d1)
        self.encoder_level1 = level(d1, heads[0], num_blocks[0], RetinexAttention)
        self.down1_2 = Resample(d1, up=False)
        self.encoder_level2 = level(d2, heads[1], num_blocks[1], RetinexAttention)
        self.down2_3 = Resample(d2, up=False)
        self.encoder_level3 = level(d3, heads[2], num_blocks[2], RetinexAttention)
        self.down3_4 = Resample(d3, up=False)
        self.latent = level(d4, heads[3], num_blocks[3], RetinexAttention)
        self.up4_3 = Resample(d4, up=True)
        self.reduce_chan_level3 = nn.Conv2d(d4, d3, 1, bias=bias)
        self.decoder_level3 = level(d3, heads[2], num_blocks[2], RetinexAttention)
        self.up3_2 = Resample(d3, up=True)
        self.reduce_chan_level2 = nn.Conv2d(d3, d2, 1, bias=bias)
        self.decoder_level2 = level(d2, heads[1], num_blocks[1], RetinexAttention)
        self.up2_1 = Resample(d2, up=True)
        self.decoder_level1 = level(d2, heads[0], num_blocks[0], RetinexAttention)
        self.img_refinement = level(d2, heads[0], num_refinement_blocks, Attention)
        self.img_output = nn.Conv2d(d2, out_channels, 3, padding=1, bias=bias)

    def forward(self, lq: Tensor, prior_rex: Tensor, prior_img: Tensor) -> Tensor:
        """lq: (B, 3, H, W) in [0, 1]; priors: (B, prior)."""
        return self._run(lq, prior_rex, prior_img)[0]

    def with_training_heads(
        self, lq: Tensor, prior_rex: Tensor, prior_img: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The restored image; ``R * L`` of the first level's features, trained toward ``lq``; the maps [R | L] of the last
        upsampled features, trained toward those of the ground truth. Needs ``training_head``."""
        restored, first, last = self._run(lq, prior_rex, prior_img)
        return restored, recompose(self.decom(first)), self.decom(last)

    def _run(
        self, lq: Tensor, prior_rex: Tensor, prior_img: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        def through(level: nn.ModuleList, x: Tensor, prior: Tensor = prior_rex) -> Tensor:
            for block in level:
                x = block(x, prior)
            return x

        one = through(self.encoder_level1, self.patch_embed(lq))
        two = through(self.encoder_level2, self.down1_2(one))
        three = through(self.encoder_level3, self.down2_3(two))
        x = through(self.latent, self.down3_4(three))
        x = through(
            self.decoder_level3, self.reduce_chan_level3(torch.cat([self.up4_3(x), three], dim=1))
        )
        x = through(
            self.decoder_level2, self.reduce_chan_level2(torch.cat([self.up3_2(x), two], dim=1))
        )
        up = self.up2_1(x)
        x = through(self.decoder_level1, torch.cat([up, one], dim=1))
        x = through(self.img_refinement, x, prior_img)
        return self.img_output(x) + lq, one, up
