"""The shifted-window attention layer of ResShift's UNet.

It is made of Swin transformer blocks on maps (B, C, H, W).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SwinConfig:
    """The sizes that all Swin layers of a network share."""

    embed_dim: int
    """Channels inside a layer."""
    depth: int
    """Blocks of a layer."""
    window_size: int
    head_channels: int
    mlp_ratio: float
    """Hidden channels of an MLP, as a multiple of ``embed_dim``."""


class GroupNorm32(nn.GroupNorm):
    """32 groups, computed in float32 whatever the precision of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        normalized = F.group_norm(
            x.float(),
            self.num_groups,
            self.weight.float(),
            self.bias.float(),
            self.eps,
        )
        return normalized.to(x.dtype)


def shifted_window_mask(
    rows: int,
    columns: int,
    window: int,
    shift: int,
    device: torch.device | None = None,
) -> Tensor:
    """Make the mask of a shifted block, which is added to its attention logits.

    In the last row of windows, the tokens of a window's last ``shift`` columns do not see those of
    its other columns (-100). No other window is masked.

    This is the mask that the published weights were trained with, and not the one of the Swin
    paper, which separates tokens in the last column of windows as well, and those in the last row
    of windows by token *rows*.

    Args:
        rows: Rows of windows.
        columns: Columns of windows.
        window: Side of a window, in tokens.
        shift: How far the windows are shifted, in tokens.
        device: Where the mask is made.

    Returns:
        Shape (rows * columns, window^2, window^2).
    """
    token_column = torch.arange(window**2, device=device) % window
    wrapped = token_column >= window - shift
    # Not !=, which torch.compile's inductor fails on.
    separated = wrapped[:, None] ^ wrapped
    tokens = window**2
    mask = torch.zeros(rows * columns, tokens, tokens, device=device)
    last_row = (rows - 1) * columns
    mask[last_row:] = -100.0 * separated
    return mask


def _relative_position_index(window: int) -> Tensor:
    """Find the row of the bias table for each pair of tokens.

    Returns:
        Shape (window^2, window^2).
    """
    token = torch.arange(window**2)
    y = token // window
    x = token % window
    # From -(window - 1) to window - 1; the sum makes them indices from 0 on.
    relative_y = y[:, None] - y
    relative_x = x[:, None] - x
    row = relative_y + window - 1
    column = relative_x + window - 1
    return row * (2 * window - 1) + column


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window.

    Every head has a learned bias for each relative position.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        relative_positions = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.empty(relative_positions, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: Tokens, shape (B, windows, tokens, C).
            mask: Added to the logits, shape (windows, tokens, tokens); None for no mask.
        """
        batch, windows, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.heads, -1)
        # Windows and heads become one dimension, so that each window can have a mask of its own.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias.expand(windows, -1, -1, -1)
        if mask is not None:
            bias = bias + mask[:, None]
        bias = bias.flatten(0, 1).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.view(batch, windows, self.heads, tokens, -1)
        return self.proj(out.transpose(2, 3).flatten(3))


class SwinBlock(nn.Module):
    """``x + attention(norm x)``, then ``x + mlp(norm x)``, on maps (B, C, H, W).

    Args:
        config: Sizes of the layers.
        resolution: Side of the square map the block was designed for. At or below the window size
            there is one window and no shift, also on larger inputs.
        shifted: Whether the windows are displaced by half a window.
    """

    def __init__(
        self,
        config: SwinConfig,
        resolution: int,
        shifted: bool,
    ) -> None:
        super().__init__()
        channels = config.embed_dim
        self.window = min(config.window_size, resolution)
        # A map of one window has nothing to shift across.
        self.shift = 0
        if shifted and resolution > config.window_size:
            self.shift = config.window_size // 2
        self.norm1 = GroupNorm32(channels)
        self.attn = WindowAttention(channels, self.window, channels // config.head_channels)
        self.norm2 = GroupNorm32(channels)
        self.mlp = _make_mlp(channels, int(channels * config.mlp_ratio))
        if self.shift:
            # It is in the published state dicts; forward makes the mask for the size at hand.
            windows = resolution // self.window
            mask = shifted_window_mask(windows, windows, self.window, self.shift)
            self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        if not self.shift:
            return self._attend_in_windows(x, mask=None)
        rows = x.shape[2] // self.window
        columns = x.shape[3] // self.window
        mask = shifted_window_mask(rows, columns, self.window, self.shift, x.device)
        shifted = _roll(x, -self.shift)
        attended = self._attend_in_windows(shifted, mask)
        return _roll(attended, self.shift)

    def _attend_in_windows(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, channels, height, width = x.shape
        side = self.window
        rows = height // side
        columns = width // side
        windows = x.view(batch, channels, rows, side, columns, side)
        windows = windows.permute(0, 2, 4, 3, 5, 1)
        tokens = windows.reshape(batch, rows * columns, side**2, channels)
        tokens = self.attn(tokens, mask)
        windows = tokens.view(batch, rows, columns, side, side, channels)
        windows = windows.permute(0, 5, 1, 3, 2, 4)
        return windows.reshape(x.shape)


def _roll(x: Tensor, shift: int) -> Tensor:
    """Shift rows and columns; those that leave come in again on the other side."""
    return x.roll((shift, shift), dims=(2, 3))


def _make_mlp(channels: int, hidden: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        fc1=nn.Conv2d(channels, hidden, 1),
        act=nn.GELU(),
        fc2=nn.Conv2d(hidden, channels, 1),
    )
    return nn.Sequential(layers)


class SwinLayer(nn.Module):
    """Swin blocks between two 1x1 convolutions, with no residual around them.

    Every second block is shifted.

    Args:
        channels: Channels of input and output.
        resolution: Side of the square map the layer was designed for.
        config: Sizes inside the layer.
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        config: SwinConfig,
    ) -> None:
        super().__init__()
        self.patch_embed = _projection(channels, config.embed_dim)
        self.blocks = nn.Sequential()
        for i in range(config.depth):
            is_odd = i % 2 == 1
            self.blocks.append(SwinBlock(config, resolution, shifted=is_odd))
        self.patch_unembed = _projection(config.embed_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = self.blocks(x)
        return self.patch_unembed(x)


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(inputs, outputs, 1)))
