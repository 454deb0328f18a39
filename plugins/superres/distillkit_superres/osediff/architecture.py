"""The networks of Stable Diffusion 2.1-base, diffusers' and transformers' own classes, at full size and at toy size."""

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
"""The autoencoder's latents are multiplied by it."""


class Architecture(NamedTuple):
    """Constructor arguments of the three networks."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]


_COMMON_UNET = {"in_channels": 4, "out_channels": 4, "use_linear_projection": True}
_COMMON_VAE = {
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": LATENT_SCALE,
}

ARCHITECTURES: dict[Size, Architecture] = {
    "full": Architecture(
        unet=_COMMON_UNET
        | {
            "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],  # diffusers takes these as numbers of heads
        },
        vae=_COMMON_VAE
        | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 768},
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
    ),
    "tiny": Architecture(
        unet=_COMMON_UNET
        | {
            "sample_size": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 16,
            "attention_head_dim": [2, 4],
        },
        vae=_COMMON_VAE
        | {
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
    ),
}


class Networks(NamedTuple):
    """The three networks of a latent diffusion model: a ``UNet2DConditionModel``, an ``AutoencoderKL`` and a ``CLIPTextModel``."""

    unet: nn.Module
    vae: nn.Module
    text: nn.Module


def make_unet(config: dict[str, Any]) -> nn.Module:
    return UNet2DConditionModel(**config)  # type: ignore[return-value]


def make_vae(config: dict[str, Any]) -> nn.Module:
    return AutoencoderKL(**config)  # type: ignore[return-value]


def make_text(config: dict[str, Any]) -> nn.Module:
    last = config["vocab_size"] - 1
    return CLIPTextModel(CLIPTextConfig(**config, bos_token_id=last - 1, eos_token_id=last))


def without_memory(
    make: Callable[[dict[str, Any]], nn.Module], config: dict[str, Any]
) -> nn.Module:
    """``make(config)`` with parameters on the meta device, for :func:`distillkit.load_exactly` to put tensors in."""
    with init_empty_weights():
        return make(config)


def random_networks(architecture: Architecture, seed: int) -> Networks:
    """The networks with seeded random weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(
            make_unet(architecture.unet), make_vae(architecture.vae), make_text(architecture.text)
        )
