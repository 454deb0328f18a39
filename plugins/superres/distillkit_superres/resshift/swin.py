"""The shifted-window attention layer of ResShift's UNet: Swin transformer blocks on (B, C, H, W) maps."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """32 groups, computed in float32 whatever the precision of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(
            x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps
        ).to(x.dtype)


def shifted_window_mask(
    rows: int, columns: int, window: int, shift: int, device: torch.device | None = None
) -> Tensor:
    """What is added to the attention logits of a shifted block, (rows * columns, window^2, window^2).

    In the last row of windows, tokens of a window's last ``shift`` columns do not see those of its other columns (-100); all other
    windows are unmasked. This is not the mask of the Swin paper, which also parts the last column of windows and parts the last row
    of windows by token *rows*; it is the one the published weights were trained with.
    """
    wrapped = torch.arange(window**2, device=device) % window >= window - shift
    mask = torch.zeros(rows * columns, window**2, window**2, device=device)
    mask[(rows - 1) * columns :] = -100.0 * (
        wrapped[:, None] ^ wrapped
    )  # not !=, which torch.compile's inductor fails at
    return mask


def _relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, (window^2, window^2)."""
    y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
    return (
        (y[:, None] - y[None, :] + window - 1) * (2 * window - 1)
        + x[:, None]
        - x[None, :]
        + window
        - 1
    )


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window, with a learned bias per head and relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x``: (B, windows, tokens, C). ``mask``: (windows, tokens, tokens), added to the logits, or None."""
        b, windows, tokens, _ = x.shape
        q, k, v = (
            self.qkv(x)
            .view(b, windows, tokens, 3, self.heads, -1)
            .permute(3, 0, 1, 4, 2, 5)
            .flatten(2, 3)
        )
        bias = (
            self.relative_position_bias_table[self.relative_position_index]
            .permute(2, 0, 1)
            .expand(windows, -1, -1, -1)
        )
        if mask is not None:
            bias = bias + mask[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1).to(q.dtype))
        return self.proj(out.view(b, windows, self.heads, tokens, -1).transpose(2, 3).flatten(3))


class SwinBlock(nn.Module):
    """``x + attention(norm x)``, then ``x + mlp(norm x)``, on (B, C, H, W).

    Args:
        resolution: side of the square map the block was designed for. At or below ``window`` there is one window and no shift,
            also on larger inputs.
        shifted: whether the windows are displaced by half a window.
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        window: int,
        heads: int,
        mlp_ratio: float,
        shifted: bool,
    ) -> None:
        super().__init__()
        self.window = min(window, resolution)
        self.shift = window // 2 if shifted and resolution > window else 0
        self.norm1 = GroupNorm(channels)
        self.attn = WindowAttention(channels, self.window, heads)
        self.norm2 = GroupNorm(channels)
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Conv2d(channels, hidden, 1),
                act=nn.GELU(),
                fc2=nn.Conv2d(hidden, channels, 1),
            )
        )
        if (
            self.shift
        ):  # part of the published state dicts; forward makes the mask for the size at hand
            n = resolution // self.window
            self.register_buffer("attn_mask", shifted_window_mask(n, n, self.window, self.shift))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        rows, columns = h // self.window, w // self.window
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (2, 3))
            mask = shifted_window_mask(rows, columns, self.window, self.shift, x.device)
        x = x.view(b, c, rows, self.window, columns, self.window).permute(0, 2, 4, 3, 5, 1)
        x = self.attn(x.reshape(b, rows * columns, self.window**2, c), mask)
        x = (
            x.view(b, rows, columns, self.window, self.window, c)
            .permute(0, 5, 1, 3, 2, 4)
            .reshape(b, c, h, w)
        )
        return x.roll((self.shift, self.shift), (2, 3)) if self.shift else x


class SwinLayer(nn.Module):
    """1x1 convolution to ``embed`` channels, ``depth`` blocks of which every second is shifted, and back. No residual around it."""

    def __init__(
        self,
        channels: int,
        embed: int,
        resolution: int,
        depth: int,
        window: int,
        head_channels: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.window = min(window, resolution)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(channels, embed, 1)))
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    embed, resolution, window, embed // head_channels, mlp_ratio, shifted=i % 2 == 1
                )
                for i in range(depth)
            )
        )
        self.patch_unembed = nn.Sequential(OrderedDict(proj=nn.Conv2d(embed, channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_unembed(self.blocks(self.patch_embed(x)))
