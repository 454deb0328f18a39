"""From options to a teacher: the published sizes, and tiny ones of the same classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from distillkit import ResidualShifting, load_exactly, read_tensors
from distillkit_superres.resshift.autoencoder import VQConfig, VQModel
from distillkit_superres.resshift.model import ResShift
from distillkit_superres.resshift.options import NetworkOptions, ResShiftOptions, SinSROptions
from distillkit_superres.resshift.schedule import (
    SINSR_MAX_START,
    ancestral,
    deterministic,
    make_sqrt_eta,
)
from distillkit_superres.resshift.sinsr import SinSR
from distillkit_superres.resshift.unet import SwinUNet, SwinUNetConfig

KAPPA = 2.0
SCHEDULES = {"v1": (15, 0.04), "v2": (15, 0.04), "v3": (4, 0.2)}
"""Steps and lowest noise level of each version of ResShift; SinSR uses those of v1."""

TINY_UNET = SwinUNetConfig(
    image_size=16,
    model_channels=32,
    channel_mult=(1, 1),
    num_res_blocks=(1, 1),
    attention_resolutions=(16, 8),
    swin_embed_dim=32,
    mlp_ratio=2,
    lq_size=16,
)
"""Latent sides in multiples of 16: two levels, the last of 8, one window."""

TINY_AUTOENCODER = VQConfig(
    n_embed=256,
    channels=32,
    channel_mult=(1, 1, 1),
    num_res_blocks=(1, 1, 1),
)


def make_process(
    steps: int,
    min_noise_level: float,
    max_start: float = 1.0,
) -> ResidualShifting:
    """Make the forward process of the published models."""
    table = make_sqrt_eta(steps, min_noise_level, KAPPA, max_start=max_start)
    return ResidualShifting(table, KAPPA)


def _make_networks(options: NetworkOptions) -> tuple[SwinUNet, VQModel]:
    """Make the two networks with their weights.

    The weights are read from files; those of size tiny are drawn from ``options.seed``.
    """
    if options.size == "tiny":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return SwinUNet(TINY_UNET), VQModel(TINY_AUTOENCODER)
    network_file, autoencoder_file = (file.fetch() for file in options.weight_files())
    network = SwinUNet(SwinUNetConfig())
    load_checkpoint(network, network_file)
    autoencoder = VQModel(VQConfig())
    load_checkpoint(autoencoder, autoencoder_file)
    return network, autoencoder


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load a published file into a network, key for key.

    Raises:
        WeightsError: The file is unreadable or unsafe, or of another architecture.
    """
    load_exactly(network, read_tensors(path, "state_dict"), path)


def build_resshift(options: ResShiftOptions) -> ResShift:
    """Build the score teacher ``superres/resshift``, frozen."""
    process = make_process(*SCHEDULES[options.version])
    make_reverse = ancestral if options.sampler == "ancestral" else deterministic
    model = ResShift(
        *_make_networks(options),
        process,
        space="vq-f4" if options.size == "full" else "vq-f4-tiny",
        reverse=make_reverse(process),
    )
    return model.eval().requires_grad_(False)


def build_sinsr(options: SinSROptions) -> SinSR:
    """Build the output teacher ``superres/sinsr``, frozen."""
    process = make_process(*SCHEDULES["v1"], SINSR_MAX_START)
    model = SinSR(ResShift(*_make_networks(options), process))
    return model.eval().requires_grad_(False)
