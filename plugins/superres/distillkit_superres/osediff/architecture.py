"""The networks of Stable Diffusion 2.1-base, at full size and at toy size.

They are diffusers' and transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

Size = Literal["full", "tiny"]

LATENT_SCALE = 0.18215
"""The factor by which the autoencoder's latents are multiplied."""


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


class Networks(NamedTuple):
    """The three networks of a latent diffusion model."""

    unet: nn.Module
    """A ``UNet2DConditionModel``."""
    vae: nn.Module
    """An ``AutoencoderKL``."""
    text: nn.Module
    """A ``CLIPTextModel``."""


def make_unet(config: NetworkConfig) -> nn.Module:
    return UNet2DConditionModel(**config)  # type: ignore[return-value]


def make_vae(config: NetworkConfig) -> nn.Module:
    return AutoencoderKL(**config)  # type: ignore[return-value]


def make_text(config: NetworkConfig) -> nn.Module:
    """Make a text encoder; the last two tokens of its vocabulary start and end a text."""
    last = config["vocab_size"] - 1
    return CLIPTextModel(CLIPTextConfig(**config, bos_token_id=last - 1, eos_token_id=last))


def make_empty(
    make: Callable[[NetworkConfig], nn.Module],
    config: NetworkConfig,
) -> nn.Module:
    """Make a network with parameters on the meta device.

    :func:`distillkit.load_exactly` puts tensors in; no memory is used before.
    """
    with init_empty_weights():
        return make(config)


def make_random_networks(architecture: Architecture, seed: int) -> Networks:
    """Make the networks with seeded random weights.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(
            unet=make_unet(architecture.unet),
            vae=make_vae(architecture.vae),
            text=make_text(architecture.text),
        )
