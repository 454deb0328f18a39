"""The sizes of Stable Diffusion 2.1-base's networks, full and toy, and narrower ones.

Nothing heavy is imported here: options are checked against these.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

Size = Literal["full", "tiny"]

LATENT_SCALE = 0.18215
"""The factor by which the autoencoder's latents are multiplied."""
DEFAULT_NORM_GROUPS = 32
"""Of diffusers' networks whose configuration names no number."""
DEFAULT_LAYERS_PER_BLOCK = 2
"""Of diffusers' UNet, likewise."""

NetworkConfig = dict[str, Any]
"""Constructor arguments of one network."""


class Architecture(NamedTuple):
    """Constructor arguments of the three networks."""

    unet: NetworkConfig
    vae: NetworkConfig
    text: NetworkConfig


FULL = Architecture(
    unet={
        "in_channels": 4,
        "out_channels": 4,
        "use_linear_projection": True,
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],  # diffusers takes these as numbers of heads
    },
    vae={
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": LATENT_SCALE,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "sample_size": 768,
    },
    text={
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "projection_dim": 512,
    },
)

TINY = Architecture(
    unet={
        "in_channels": 4,
        "out_channels": 4,
        "use_linear_projection": True,
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
        "attention_head_dim": [2, 4],
    },
    vae={
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": LATENT_SCALE,
        "block_out_channels": [8, 8, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
    },
    text={
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "hidden_act": "gelu",
        "projection_dim": 16,
    },
)

ARCHITECTURES: dict[Size, Architecture] = {"full": FULL, "tiny": TINY}


def count_parts(config: NetworkConfig) -> int:
    """Count the equal parts that the channels of a UNet or an autoencoder can be kept in.

    A part of each block has whole attention heads, and as many channels of every norm group.
    """
    return math.gcd(channel_period(config), *config.get("attention_head_dim", ()))


def channel_period(config: NetworkConfig) -> int:
    """Give the number of channels that every norm group of a network has a multiple of.

    A group over concatenated blocks, as a UNet's skip connections make them, has one, too.
    """
    groups = config.get("norm_num_groups", DEFAULT_NORM_GROUPS)
    return math.gcd(*config["block_out_channels"]) // groups


def scale_channels(config: NetworkConfig, width: float) -> NetworkConfig:
    """Keep a share of the channels of each block of a UNet or an autoencoder.

    Args:
        config: The config of the network.
        width: The share; a multiple of 1 by :func:`count_parts`.
    """
    parts = count_parts(config)
    kept = round(width * parts)
    scaled = dict(config)
    for key in ("block_out_channels", "attention_head_dim"):
        if key in config:
            scaled[key] = [number * kept // parts for number in config[key]]
    return scaled


def find_width_problem(config: NetworkConfig, width: float) -> str | None:
    """Say what is wrong with a share of channels, and which are near; None where it is valid."""
    parts = count_parts(config)
    share = width * parts
    if math.isclose(share, round(share), abs_tol=1e-6):
        return None
    near = {max(math.floor(share), 1) / parts, math.ceil(share) / parts}
    return (
        f"{width:g} would split attention heads or norm groups, which come in {parts} equal parts; "
        f"nearest: {' and '.join(f'{valid:g}' for valid in sorted(near))}"
    )
