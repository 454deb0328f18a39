"""Networks of fewer channels and layers, initialized by slices of larger ones.

What AdcSR (Chen et al. 2025) and its kin prune: the UNet and the autoencoder's decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from distillkit import load_exactly
from distillkit_superres.osediff.architecture import make_empty, make_unet, make_vae
from distillkit_superres.osediff.sizes import (
    DEFAULT_LAYERS_PER_BLOCK,
    NetworkConfig,
    channel_period,
    scale_channels,
)

HEAD_CHANNELS = {
    0: re.compile(r"\.to_[qkv]\.(weight|bias)$"),
    1: re.compile(r"\.to_out\.0\.weight$"),
}
"""By axis, the tensors whose channels there are those of attention heads."""
UP_LAYER = re.compile(r"^(up_blocks\.\d+\.(?:resnets|attentions)\.)(\d+)(?=\.)")
"""A layer of a block on a UNet's way up, and its number."""

Rename = Callable[[str], str]
"""Names the larger network's tensor that a tensor of the smaller one is a slice of."""


def slice_unet(
    full: nn.Module, config: NetworkConfig, width: float, layers_per_block: int | None = None
) -> nn.Module:
    """Make a UNet of a share of the channels and, if asked, of fewer layers a block.

    The embedding of the timestep stays whole: sinusoids of fewer channels have other frequencies.

    Args:
        full: The UNet.
        config: Its constructor arguments.
        width: The share of the channels of each block.
        layers_per_block: The first so many layers of each block on the way down are kept, and as
            many and the last one of each on the way up; None: all.
    """
    full_layers = config.get("layers_per_block", DEFAULT_LAYERS_PER_BLOCK)
    layers = layers_per_block or full_layers
    embedding_dim = 4 * config["block_out_channels"][0]
    thin_config = scale_channels(config, width)
    thin_config |= {"layers_per_block": layers, "time_embedding_dim": embedding_dim}
    thin = make_empty(make_unet, thin_config)
    thin.time_proj = full.time_proj
    thin.time_embedding = full.time_embedding

    def name_in_full(name: str) -> str:
        # The last layer on the way up is joined by the narrower skip connection of the block above.
        return UP_LAYER.sub(lambda layer: _name_up_layer(layer, layers, full_layers), name)

    _load_slices(thin, full, channel_period(config), name_in_full)
    return thin


def slice_decoder(full: nn.Module, config: NetworkConfig, width: float) -> nn.Module:
    """Make a decoder of a share of the channels.

    Args:
        full: The decoder.
        config: Constructor arguments of its autoencoder.
        width: The share of the channels of each block.
    """
    thin = make_empty(make_vae, scale_channels(config, width)).get_submodule("decoder")
    _load_slices(thin, full, channel_period(config))
    return thin


def kept_channels(number: int, kept: int, period: int) -> Tensor:
    """List the channels that are kept: the first ones of each period.

    The same places in every period, whatever the layer: so residual and skip connections fit
    together, also where they are concatenated, and the n-th norm group is a part of what the n-th
    was. Which places these are is arbitrary, as the order of channels is.

    Args:
        number: How many channels.
        kept: How many of them are kept.
        period: The number is a multiple of it.
    """
    kept_of_period = period * kept // number
    return torch.arange(number).view(-1, period)[:, :kept_of_period].flatten()


def _name_up_layer(layer: re.Match[str], layers: int, full_layers: int) -> str:
    block, number = layer.groups()
    if int(number) == layers:
        number = full_layers
    return f"{block}{number}"


def _load_slices(thin: nn.Module, full: nn.Module, period: int, name_in_full: Rename = str) -> None:
    """Load a slice of a tensor of the larger network into each tensor of the smaller one."""
    tensors = full.state_dict()
    slices = {}
    for name, target in thin.state_dict().items():
        tensor = tensors[name_in_full(name)]
        for axis, size in enumerate(target.shape):
            number = tensor.shape[axis]
            if size == number:
                continue
            in_heads = HEAD_CHANNELS[axis].search(name)
            # Of attention heads, the first ones are kept whole.
            kept = kept_channels(number, size, number if in_heads else period)
            tensor = tensor.index_select(axis, kept)
        slices[name] = tensor.clone()
    load_exactly(thin, slices, "slices of the teacher")
