"""Noise schedules of the DDPM family, and the tables a sampler needs. All in float64; tables are rounded to float32 last."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["linear", "quad", "warmup10", "warmup50", "const", "jsd", "cosine"]


def betas(kind: Kind, levels: int, start: float = 1e-4, end: float = 2e-2) -> Tensor:
    """The variances beta_t, t = 0..num_train_timesteps-1, in float64.

    ``linear`` is linear in beta, as in GSAD. ``quad`` is linear in sqrt(beta): Reti-Diff and latent diffusion call that "linear".
    ``warmupN`` rises linearly over the first N percent and stays at ``end``; ``jsd`` is ``1 / (levels - t)``; ``cosine`` is
    Nichol & Dhariwal's, capped at .999. ``const``, ``jsd`` and ``cosine`` do not read ``start``, the latter two not ``end`` either.
    """
    if kind == "linear":
        return torch.linspace(start, end, levels, dtype=torch.float64)
    if kind == "quad":
        return torch.linspace(start**0.5, end**0.5, levels, dtype=torch.float64) ** 2
    if kind == "jsd":
        return 1 / torch.linspace(levels, 1, levels, dtype=torch.float64)
    if kind == "cosine":
        angle = (
            (torch.arange(levels + 1, dtype=torch.float64) / levels + 8e-3)
            / (1 + 8e-3)
            * (math.pi / 2)
        )
        signal = angle.cos() ** 2
        return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    constant = torch.full((levels,), end, dtype=torch.float64)
    if kind != "const":
        rising = int(levels * int(kind.removeprefix("warmup")) / 100)
        constant[:rising] = torch.linspace(start, end, rising, dtype=torch.float64)
    return constant


def level_edges(beta: Tensor) -> Tensor:
    """``sqrt([1, abar_0, ..., abar_{T-1}])`` in float64, (T + 1,): training draws its levels between neighbors."""
    return torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)]).sqrt()


def tables(beta: Tensor) -> dict[str, Tensor]:
    """Everything q(x_t | x_0) and q(x_{t-1} | x_t, x_0) need (Ho et al. 2020, eq. 4 and 7), under the usual names, float32 (T,)."""
    alpha = 1 - beta
    bar = alpha.cumprod(0)
    previous = torch.cat([beta.new_ones(1), bar[:-1]])
    variance = beta * (1 - previous) / (1 - bar)
    exact = {
        "betas": beta,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - bar).log(),
        "sqrt_recip_alphas_cumprod": (1 / bar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / bar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": beta * previous.sqrt() / (1 - bar),
        "posterior_mean_coef2": (1 - previous) * alpha.sqrt() / (1 - bar),
    }
    return {name: table.float() for name, table in exact.items()}


TABLES = frozenset(tables(betas("linear", 2)))
"""The names of the twelve tables."""
