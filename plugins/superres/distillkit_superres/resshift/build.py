"""From a config to a teacher: the published sizes, and toy ones through the same classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distillkit import ResidualShifting
from distillkit_superres.resshift.autoencoder import VQModel
from distillkit_superres.resshift.checkpoints import load_checkpoint
from distillkit_superres.resshift.model import ResShift
from distillkit_superres.resshift.schedule import (
    SINSR_MAX_START,
    ancestral,
    deterministic,
    sqrt_eta,
)
from distillkit_superres.resshift.sinsr import SinSR
from distillkit_superres.resshift.unet import UNetModelSwin

if TYPE_CHECKING:
    from distillkit_superres.resshift.specs import ResShiftConfig, SinSRConfig

KAPPA = 2.0
SCHEDULES = {"v1": (15, 0.04), "v2": (15, 0.04), "v3": (4, 0.2)}
"""Steps and lowest noise level of each version of ResShift; SinSR's are those of v1."""

FULL_UNET: dict[str, Any] = {
    "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 160, "channel_mult": (1, 2, 2, 4),
    "num_res_blocks": (2, 2, 2, 2), "attention_resolutions": (64, 32, 16, 8), "num_head_channels": 32, "swin_depth": 2,
    "swin_embed_dim": 192, "window_size": 8, "mlp_ratio": 4, "lq_size": 64,
}  # fmt: skip
FULL_AUTOENCODER: dict[str, Any] = {
    "embed_dim": 3, "n_embed": 8192, "z_channels": 3, "channels": 128, "channel_mult": (1, 2, 4), "num_res_blocks": (2, 2, 2),
}  # fmt: skip

TINY_UNET = FULL_UNET | {
    "image_size": 16, "model_channels": 32, "channel_mult": (1, 1), "num_res_blocks": (1, 1), "attention_resolutions": (16, 8),
    "swin_embed_dim": 32, "mlp_ratio": 2, "lq_size": 16,
}  # fmt: skip
"""Latent sides in multiples of 16: two levels, the last of 8, one window."""
TINY_AUTOENCODER = FULL_AUTOENCODER | {
    "n_embed": 256,
    "channels": 32,
    "channel_mult": (1, 1, 1),
    "num_res_blocks": (1, 1, 1),
}


def process(steps: int, min_noise_level: float, max_start: float = 1.0) -> ResidualShifting:
    """The forward process of the published models."""
    return ResidualShifting(sqrt_eta(steps, min_noise_level, KAPPA, max_start=max_start), KAPPA)


def _networks(config: ResShiftConfig | SinSRConfig) -> tuple[UNetModelSwin, VQModel]:
    """The two networks with their weights: read from files, or of toy size and drawn from ``config.seed``."""
    if config.size == "tiny":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return UNetModelSwin(**TINY_UNET), VQModel(**TINY_AUTOENCODER)
    paths = [file.fetch() for file in config.weight_files()]
    network, autoencoder = UNetModelSwin(**FULL_UNET), VQModel(**FULL_AUTOENCODER)
    load_checkpoint(network, paths[0])
    load_checkpoint(autoencoder, paths[1])
    return network, autoencoder


def build_resshift(config: ResShiftConfig) -> ResShift:
    """The score teacher ``superres/resshift``, frozen."""
    forward = process(*SCHEDULES[config.version])
    step = ancestral if config.sampler == "ancestral" else deterministic
    space = "vq-f4" if config.size == "full" else "vq-f4-tiny"
    model = ResShift(*_networks(config), forward, space=space, reverse=step(forward))
    return model.eval().requires_grad_(False)


def build_sinsr(config: SinSRConfig) -> SinSR:
    """The output teacher ``superres/sinsr``, frozen."""
    return (
        SinSR(ResShift(*_networks(config), process(*SCHEDULES["v1"], SINSR_MAX_START)))
        .eval()
        .requires_grad_(False)
    )
