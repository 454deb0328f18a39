"""The noise schedule of residual shifting and its two kinds of reverse step, as tables in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distillkit import ResidualShifting

SINSR_MAX_START = 0.001**0.5
"""SinSR's bound on ``s_0``, which its published settings stay below."""


def sqrt_eta(
    steps: int,
    min_noise_level: float,
    kappa: float,
    etas_end: float = 0.99,
    power: float = 0.3,
    max_start: float = 1.0,
) -> Tensor:
    """The table of ``sqrt(eta_t)``, (steps,): geometric from its start to ``etas_end``, warped in time by ``power``.

    ``s_t = s_0 b^{u_t}``, ``s_0 = min(m / kappa, m, max_start)``, ``b = (s_T / s_0)^{1 / (steps - 1)}``,
    ``u_t = (t / (steps - 1))^power (steps - 1)``. ``etas_end`` is ``s_T``, the square root of the last eta.
    """
    start = min(min_noise_level / kappa, min_noise_level, max_start)
    return (
        start
        * (etas_end / start) ** (torch.arange(steps, dtype=torch.float64) / (steps - 1)) ** power
    )


class ReverseStep(NamedTuple):
    """``z_{t-1} = clean z_0 + current z_t + shift y + noise eps``: the four factors at each time, each (levels,)."""

    clean: Tensor
    current: Tensor
    shift: Tensor
    noise: Tensor

    def __call__(
        self, t: Tensor, clean: Tensor, current: Tensor, y: Tensor, noise: Tensor
    ) -> Tensor:
        """``z_{t-1}`` of ``z_0``, ``z_t``, ``y`` and ``eps``, each (B, C, h, w), at ``t`` (B,)."""
        a, b, c, d = (table.to(t.device)[t].float().view(-1, 1, 1, 1) for table in self)
        return a * clean + b * current + c * y + d * noise


def _etas(process: ResidualShifting) -> tuple[Tensor, Tensor]:
    """``eta_t`` and ``eta_{t-1}`` (0 before the first), each (levels,)."""
    eta = process.table[1]
    return eta, torch.cat([eta.new_zeros(1), eta[:-1]])


def ancestral(process: ResidualShifting) -> ReverseStep:
    """The posterior ``q(z_{t-1} | z_t, z_0, y)`` (ResShift, Yue et al. 2023).

    Mean ``(alpha_t / eta_t) z_0 + (eta_{t-1} / eta_t) z_t`` with ``alpha_t = eta_t - eta_{t-1}``; variance
    ``kappa^2 (eta_{t-1} / eta_t) alpha_t``. The last step, t = 0, returns ``z_0`` without noise.
    """
    eta, before = _etas(process)
    alpha = eta - before
    return ReverseStep(
        alpha / eta,
        before / eta,
        torch.zeros_like(eta),
        process.kappa * (before / eta * alpha).sqrt(),
    )


def deterministic(process: ResidualShifting) -> ReverseStep:
    """The step that keeps the noise of ``z_t`` instead of drawing a new one (SinSR, Wang et al. 2024).

    ``z_t`` by ``m = sqrt(eta_{t-1} / eta_t)``, ``y`` by ``j = eta_{t-1} - sqrt(eta_{t-1} eta_t)``, ``z_0`` by ``1 - m - j``.
    """
    eta, before = _etas(process)
    m, j = (before / eta).sqrt(), before - (before * eta).sqrt()
    return ReverseStep(1 - m - j, m, j, torch.zeros_like(eta))
