"""The restoring transformer: a U-shape of channel-attention blocks (Restormer).

Every block is modulated by a prior vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit_lowlight.retidiff.config import RetiDiffConfig
from distillkit_lowlight.retidiff.decomposition import Decomposition, recompose


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every pixel.

    Without bias the mean is left in, too (Restormer's "BiasFree").
    """

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        variance = centered.square().mean(1, keepdim=True)
        weight = self.body.weight[:, None, None]
        scale = (variance + self.body.eps).rsqrt() * weight
        if self.body.bias is None:
            return x * scale
        bias = self.body.bias[:, None, None]
        return centered * scale + bias


def modulate(x: Tensor, kernel: nn.Module, prior: Tensor) -> Tensor:
    """Multiply each channel by a factor, ``1 + kernel(prior)``."""
    factor = 1 + kernel(prior)
    return x * factor[:, :, None, None]


def _modulation_kernel(prior_size: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(prior_size, channels, bias=False))


def _conv1x1(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def _depthwise(channels: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


def channel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Attend between the channels of each head.

    Args:
        q: Queries, shape (B, C, H, W).
        k: Keys, shape (B, C, H, W).
        v: Values, shape (B, C, H, W).
        temperature: Factors of the cosines, shape (heads, 1, 1).

    Returns:
        Shape (B, heads, C / heads, H W).
    """
    heads = temperature.shape[0]
    q = F.normalize(_split_heads(q, heads), dim=-1)
    k = F.normalize(_split_heads(k, heads), dim=-1)
    v = _split_heads(v, heads)
    cosines = q @ k.transpose(-2, -1)
    weights = (cosines * temperature).softmax(-1)
    return weights @ v


def _split_heads(features: Tensor, heads: int) -> Tensor:
    """Arrange (B, C, H, W) as (B, heads, C / heads, H W)."""
    return features.unflatten(1, (heads, -1)).flatten(3)


class RetinexAttention(nn.Module):
    """Channel attention from reflectance features to illumination features.

    The first three quarters of the channels are the reflectance's and make the queries; the rest
    are the illumination's and make keys and values. A prior is divided likewise.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        bias: bool,
        prior_size: int,
    ) -> None:
        super().__init__()
        self.split = _split_sizes(channels)
        self.prior_split = _split_sizes(prior_size)
        reflectance, illumination = self.split
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kernel_R = _modulation_kernel(self.prior_split[0], reflectance)
        self.kernel_I = _modulation_kernel(self.prior_split[1], illumination)
        self.q_R = _conv1x1(reflectance, channels, bias)
        self.q_dwconv = _depthwise(channels, bias)
        self.kv_I = _conv1x1(illumination, 2 * channels, bias)
        self.kv_dwconv = _depthwise(2 * channels, bias)
        self.project_out = _conv1x1(channels, channels, bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        reflectance, illumination = x.split(self.split, dim=1)
        reflectance_prior, illumination_prior = prior.split(self.prior_split, dim=1)
        reflectance = modulate(reflectance, self.kernel_R, reflectance_prior)
        illumination = modulate(illumination, self.kernel_I, illumination_prior)
        q = self.q_dwconv(self.q_R(reflectance))
        kv = self.kv_dwconv(self.kv_I(illumination))
        k, v = kv.chunk(2, dim=1)
        attended = channel_attention(q, k, v, self.temperature)
        return self.project_out(attended.reshape(x.shape))


def _split_sizes(channels: int) -> list[int]:
    reflectance = channels * 3 // 4
    return [reflectance, channels - reflectance]


class Attention(nn.Module):
    """Ordinary channel attention on modulated features."""

    def __init__(
        self,
        channels: int,
        heads: int,
        bias: bool,
        prior_size: int,
    ) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.kernel = _modulation_kernel(prior_size, channels)
        self.qkv = _conv1x1(channels, 3 * channels, bias)
        self.qkv_dwconv = _depthwise(3 * channels, bias)
        self.project_out = _conv1x1(channels, channels, bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        modulated = modulate(x, self.kernel, prior)
        qkv = self.qkv_dwconv(self.qkv(modulated))
        q, k, v = qkv.chunk(3, dim=1)
        attended = channel_attention(q, k, v, self.temperature)
        return self.project_out(attended.reshape(x.shape))


class FeedForward(nn.Module):
    """Gated feed-forward layers on modulated features."""

    def __init__(
        self,
        channels: int,
        expansion: float,
        bias: bool,
        prior_size: int,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.kernel = _modulation_kernel(prior_size, channels)
        self.project_in = _conv1x1(channels, 2 * hidden, bias)
        self.dwconv = _depthwise(2 * hidden, bias)
        self.project_out = _conv1x1(hidden, channels, bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        modulated = modulate(x, self.kernel, prior)
        hidden = self.dwconv(self.project_in(modulated))
        gate, value = hidden.chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class Block(nn.Module):
    """Attention and feed-forward layers, each normalized before and added to its input."""

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        channels: int,
        norm_bias: bool,
    ) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels, norm_bias)
        self.attn = attention
        self.norm2 = ChannelNorm(channels, norm_bias)
        self.ffn = feed_forward

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), prior)
        return x + self.ffn(self.norm2(x), prior)


class Downsample(nn.Module):
    """Halves the sides and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3x3(channels, channels // 2),
            nn.PixelUnshuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Doubles the sides and halves the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3x3(channels, channels * 2),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    """A 3x3 convolution without bias."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.proj = _conv3x3(inputs, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Transformer(nn.Module):
    """Low-light image and two priors to the restored image."""

    def __init__(self, config: RetiDiffConfig) -> None:
        super().__init__()
        width1, width2, width3, width4 = (config.dim * 2**i for i in range(4))
        blocks1, blocks2, blocks3, blocks4 = config.num_blocks
        heads1, heads2, heads3, heads4 = config.heads
        bias = config.bias

        def retinex_level(number: int, width: int, heads: int) -> nn.ModuleList:
            return _make_level(config, RetinexAttention, number, width, heads)

        # Seeded weights depend on the order in which the layers are made.
        if config.training_head:
            self.decom = Decomposition(width1, width1)
        self.patch_embed = PatchEmbed(config.inp_channels, width1)
        self.encoder_level1 = retinex_level(blocks1, width1, heads1)
        self.down1_2 = Downsample(width1)
        self.encoder_level2 = retinex_level(blocks2, width2, heads2)
        self.down2_3 = Downsample(width2)
        self.encoder_level3 = retinex_level(blocks3, width3, heads3)
        self.down3_4 = Downsample(width3)
        self.latent = retinex_level(blocks4, width4, heads4)
        self.up4_3 = Upsample(width4)
        self.reduce_chan_level3 = _conv1x1(width4, width3, bias)
        self.decoder_level3 = retinex_level(blocks3, width3, heads3)
        self.up3_2 = Upsample(width3)
        self.reduce_chan_level2 = _conv1x1(width3, width2, bias)
        self.decoder_level2 = retinex_level(blocks2, width2, heads2)
        # The finest level keeps both halves of its concatenation: twice the encoder's width.
        self.up2_1 = Upsample(width2)
        self.decoder_level1 = retinex_level(blocks1, width2, heads1)
        self.img_refinement = _make_level(
            config, Attention, config.num_refinement_blocks, width2, heads1
        )
        self.img_output = nn.Conv2d(width2, config.out_channels, 3, padding=1, bias=bias)

    def forward(self, lq: Tensor, prior_rex: Tensor, prior_img: Tensor) -> Tensor:
        """Restore images.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1], sides multiples of 8.
            prior_rex: Priors of their retinex maps, shape (B, prior_size).
            prior_img: Their priors, shape (B, prior_size).

        Returns:
            Restored images, shape (B, 3, H, W), nominally in [0, 1].
        """
        restored, _, _ = self._run(lq, prior_rex, prior_img)
        return restored

    def with_training_heads(
        self,
        lq: Tensor,
        prior_rex: Tensor,
        prior_img: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore images and predict what training compares beside them.

        Needs ``training_head`` in the config. The arguments are those of :meth:`forward`.

        Returns:
            The restored images; ``R * L`` of the first level's features, which is trained toward
            ``lq``; and the maps [R | L] of the last upsampled features, which are trained toward
            those of the ground truth.
        """
        restored, first, last = self._run(lq, prior_rex, prior_img)
        return restored, recompose(self.decom(first)), self.decom(last)

    def _run(
        self,
        lq: Tensor,
        prior_rex: Tensor,
        prior_img: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore images; also return the first level's and the last upsampled features."""
        x = self.patch_embed(lq)
        level1 = _apply(self.encoder_level1, x, prior_rex)
        x = self.down1_2(level1)
        level2 = _apply(self.encoder_level2, x, prior_rex)
        x = self.down2_3(level2)
        level3 = _apply(self.encoder_level3, x, prior_rex)
        x = self.down3_4(level3)
        x = _apply(self.latent, x, prior_rex)
        x = torch.cat([self.up4_3(x), level3], dim=1)
        x = self.reduce_chan_level3(x)
        x = _apply(self.decoder_level3, x, prior_rex)
        x = torch.cat([self.up3_2(x), level2], dim=1)
        x = self.reduce_chan_level2(x)
        x = _apply(self.decoder_level2, x, prior_rex)
        upsampled = self.up2_1(x)
        x = torch.cat([upsampled, level1], dim=1)
        x = _apply(self.decoder_level1, x, prior_rex)
        x = _apply(self.img_refinement, x, prior_img)
        return self.img_output(x) + lq, level1, upsampled


def _make_level(
    config: RetiDiffConfig,
    attention: type[RetinexAttention] | type[Attention],
    number: int,
    width: int,
    heads: int,
) -> nn.ModuleList:
    """Make the blocks of one level."""
    norm_bias = config.LayerNorm_type == "WithBias"
    level = nn.ModuleList()
    for _ in range(number):
        # Made before the attention: seeded weights depend on the order.
        feed_forward = FeedForward(
            width, config.ffn_expansion_factor, config.bias, config.prior_size
        )
        attend = attention(width, heads, config.bias, config.prior_size)
        level.append(Block(attend, feed_forward, width, norm_bias))
    return level


def _apply(level: nn.ModuleList, x: Tensor, prior: Tensor) -> Tensor:
    for block in level:
        x = block(x, prior)
    return x
