"""Noise schedules of the DDPM family, and the tables a sampler needs.

Everything is computed in float64; tables are rounded to float32 last.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ScheduleKind = Literal["linear", "quad", "warmup10", "warmup50", "const", "jsd", "cosine"]

COSINE_OFFSET = 8e-3
"""The ``s`` of Nichol & Dhariwal (2021, eq. 17)."""


def make_betas(
    kind: ScheduleKind,
    num_train_timesteps: int,
    start: float = 1e-4,
    end: float = 2e-2,
) -> Tensor:
    """Compute the variances beta_t of a schedule.

    Args:
        kind: ``linear`` is linear in beta, as in GSAD. ``quad`` is linear in sqrt(beta), which
            Reti-Diff and latent diffusion call "linear". ``warmupN`` rises linearly over the
            first N percent and stays at ``end``. ``const`` is ``end`` everywhere. ``jsd`` is
            ``1 / (T - t)``. ``cosine`` is Nichol & Dhariwal's, capped at .999.
        num_train_timesteps: Number of timesteps T.
        start: First beta; unused by ``const``, ``jsd`` and ``cosine``.
        end: Last beta; unused by ``jsd`` and ``cosine``.

    Returns:
        beta_0 to beta_{T-1}, shape (T,), float64.
    """
    if kind == "linear":
        return torch.linspace(start, end, num_train_timesteps, dtype=torch.float64)
    if kind == "quad":
        roots = torch.linspace(start**0.5, end**0.5, num_train_timesteps, dtype=torch.float64)
        return roots**2
    if kind == "jsd":
        return 1 / torch.linspace(num_train_timesteps, 1, num_train_timesteps, dtype=torch.float64)
    if kind == "cosine":
        return _cosine_betas(num_train_timesteps)
    return _warmup_betas(kind, num_train_timesteps, start, end)


def _cosine_betas(num_train_timesteps: int) -> Tensor:
    steps = torch.arange(num_train_timesteps + 1, dtype=torch.float64)
    time = (steps / num_train_timesteps + COSINE_OFFSET) / (1 + COSINE_OFFSET)
    alphas_cumprod = (time * (math.pi / 2)).cos() ** 2
    betas = 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]
    return betas.clamp(max=0.999)


def _warmup_betas(
    kind: ScheduleKind,
    num_train_timesteps: int,
    start: float,
    end: float,
) -> Tensor:
    betas = torch.full((num_train_timesteps,), end, dtype=torch.float64)
    if kind == "const":
        return betas
    percent = int(kind.removeprefix("warmup"))
    rising = int(num_train_timesteps * percent / 100)
    betas[:rising] = torch.linspace(start, end, rising, dtype=torch.float64)
    return betas


def make_level_edges(betas: Tensor) -> Tensor:
    """Compute the noise levels between which training draws its own.

    Args:
        betas: Variances of the schedule, shape (T,), float64.

    Returns:
        ``sqrt([1, abar_0, ..., abar_{T-1}])``, decreasing, shape (T + 1,), float64.
    """
    alphas_cumprod = (1 - betas).cumprod(0)
    return torch.cat([betas.new_ones(1), alphas_cumprod]).sqrt()


def make_tables(betas: Tensor) -> dict[str, Tensor]:
    """Compute the factors of q(x_t | x_0) and q(x_{t-1} | x_t, x_0).

    These are eq. 4 and 7 of Ho et al. (2020), under the names that published code gives them.

    Args:
        betas: Variances of the schedule, shape (T,), float64.

    Returns:
        Twelve tables by name, each of shape (T,), float32.
    """
    alphas = 1 - betas
    alphas_cumprod = alphas.cumprod(0)
    alphas_cumprod_prev = torch.cat([betas.new_ones(1), alphas_cumprod[:-1]])
    variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
    sample_factor = betas * alphas_cumprod_prev.sqrt() / (1 - alphas_cumprod)
    current_factor = (1 - alphas_cumprod_prev) * alphas.sqrt() / (1 - alphas_cumprod)
    exact = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": alphas_cumprod_prev,
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas_cumprod).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas_cumprod).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas_cumprod - 1).sqrt(),
        "posterior_variance": variance,
        # The variance of the last step is 0, which has no logarithm.
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": sample_factor,
        "posterior_mean_coef2": current_factor,
    }
    return {name: table.float() for name, table in exact.items()}


TABLE_NAMES = frozenset(make_tables(make_betas("linear", 2)))
"""Names of the twelve tables, which published files hold beside the weights."""
