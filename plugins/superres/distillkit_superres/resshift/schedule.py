"""The noise schedule of residual shifting and its two kinds of reverse step.

Everything is a table in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distillkit import ResidualShifting

SINSR_MAX_START = 0.001**0.5
"""SinSR's bound on ``s_0``, which its published settings stay below."""


def make_sqrt_eta(
    steps: int,
    min_noise_level: float,
    kappa: float,
    etas_end: float = 0.99,
    power: float = 0.3,
    max_start: float = 1.0,
) -> Tensor:
    """Compute the table of ``sqrt(eta_t)``.

    It is geometric from its start to its end, and warped in time:
    ``s_t = s_0 b^{u_t}`` with ``b = (s_T / s_0)^{1 / (steps - 1)}`` and
    ``u_t = (t / (steps - 1))^power (steps - 1)``.

    Args:
        steps: Number of timesteps.
        min_noise_level: The published option m: ``s_0 = min(m / kappa, m, max_start)``.
        kappa: Standard deviation of the noise at ``eta = 1``.
        etas_end: ``s_T``, the square root of the last eta.
        power: How time is warped.
        max_start: Upper bound of ``s_0``.

    Returns:
        Shape (steps,), float64.
    """
    start = min(min_noise_level / kappa, min_noise_level, max_start)
    time = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    return start * (etas_end / start) ** time**power


class ReverseStep(NamedTuple):
    """The four factors of ``z_{t-1} = sample z_0 + current z_t + shift y + noise eps``.

    Each is a table over the timesteps, shape (num_train_timesteps,).
    """

    sample: Tensor
    current: Tensor
    shift: Tensor
    noise: Tensor

    def __call__(
        self,
        t: Tensor,
        sample: Tensor,
        current: Tensor,
        y: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Compute ``z_{t-1}``.

        Args:
            t: Timesteps, shape (B,).
            sample: Clean latents ``z_0``, shape (B, C, h, w).
            current: Noisy latents ``z_t``, shape (B, C, h, w).
            y: Latents of the upsampled inputs, shape (B, C, h, w).
            noise: Standard normal noise, shape (B, C, h, w).
        """
        return (
            _factor(self.sample, t) * sample
            + _factor(self.current, t) * current
            + _factor(self.shift, t) * y
            + _factor(self.noise, t) * noise
        )


def _factor(table: Tensor, t: Tensor) -> Tensor:
    """Look up a factor at each timestep, shape (B, 1, 1, 1)."""
    factors = table.to(t.device)[t]
    return factors.float().view(-1, 1, 1, 1)


def _etas(process: ResidualShifting) -> tuple[Tensor, Tensor]:
    """Look up ``eta_t`` and ``eta_{t-1}``, which is 0 before the first."""
    _, eta, _ = process.table
    previous = torch.cat([eta.new_zeros(1), eta[:-1]])
    return eta, previous


def ancestral(process: ResidualShifting) -> ReverseStep:
    """Make the steps of the posterior ``q(z_{t-1} | z_t, z_0, y)`` (Yue et al. 2023).

    Its mean is ``(alpha_t / eta_t) z_0 + (eta_{t-1} / eta_t) z_t`` with
    ``alpha_t = eta_t - eta_{t-1}``, and its variance ``kappa^2 (eta_{t-1} / eta_t) alpha_t``. The
    last step, t = 0, returns ``z_0`` without noise.
    """
    eta, previous = _etas(process)
    alpha = eta - previous
    return ReverseStep(
        sample=alpha / eta,
        current=previous / eta,
        shift=torch.zeros_like(eta),
        noise=process.kappa * (previous / eta * alpha).sqrt(),
    )


def deterministic(process: ResidualShifting) -> ReverseStep:
    """Make the steps that keep the noise of ``z_t`` (SinSR, Wang et al. 2024).

    The factors are ``m = sqrt(eta_{t-1} / eta_t)`` of ``z_t``,
    ``j = eta_{t-1} - sqrt(eta_{t-1} eta_t)`` of ``y``, and ``1 - m - j`` of ``z_0``.
    """
    eta, previous = _etas(process)
    m = (previous / eta).sqrt()
    j = previous - (previous * eta).sqrt()
    return ReverseStep(
        sample=1 - m - j,
        current=m,
        shift=j,
        noise=torch.zeros_like(eta),
    )
