"""The networks of Stable Diffusion 2.1-base: diffusers' and transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from distillkit_superres.osediff.sizes import Architecture, NetworkConfig


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
