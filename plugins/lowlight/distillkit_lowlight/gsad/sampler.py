"""GSAD's sampler: ancestral DDPM over any schedule, whole batches, with the noise handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from distillkit_lowlight.schedule import Kind, betas, tables


@dataclass(frozen=True)
class Schedule:
    """A schedule of ``steps`` steps. The network knows the level, so it need not be the one of training."""

    steps: int
    beta_start: float
    beta_end: float
    kind: Kind = "linear"

    @cached_property
    def betas(self) -> Tensor:
        """float64, (steps,)."""
        return betas(self.kind, self.steps, self.beta_start, self.beta_end)

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """float32, each (steps,), on the CPU."""
        return tables(self.betas)

    def level(self, i: int, batch: int) -> Tensor:
        """The level ``sqrt(abar_i)`` of step ``i``, (batch,)."""
        return self.tables["sqrt_alphas_cumprod"][i].repeat(batch)

    def clean(self, i: int, x: Tensor, noise: Tensor) -> Tensor:
        """``x_0 = x_i / sqrt(abar_i) - sqrt(1 / abar_i - 1) eps``, not clamped."""
        return (
            self._at("sqrt_recip_alphas_cumprod", i) * x
            - self._at("sqrt_recipm1_alphas_cumprod", i) * noise
        )

    def posterior(self, i: int, x: Tensor, clean: Tensor) -> tuple[Tensor, float]:
        """Mean and log-variance of ``q(x_{i-1} | x_i, x_0)`` (Ho et al. 2020, eq. 6 and 7); the variance of step 0 is clipped."""
        mean = self._at("posterior_mean_coef1", i) * clean + self._at("posterior_mean_coef2", i) * x
        return mean, self._at("posterior_log_variance_clipped", i)

    def _at(self, name: str, i: int) -> float:
        return float(self.tables[name][i])


TRAINING = Schedule(500, 1e-4, 2e-2)
EVALUATION = {
    "lol-v1": Schedule(20, 6e-4, 0.88),
    "lol-v2-real": Schedule(10, 9e-4, 0.85),
    "lol-v2-syn": Schedule(10, 2e-3, 0.84),
}
"""Schedules the published numbers were made with. The last level of v2-syn, .0329, is noisier than training ever was (.0797)."""


def descend(
    predict_noise: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    x: Tensor,
    draws: Iterator[Tensor],
    stop: int = 0,
) -> Tensor:
    """Walk from pure noise ``x_{T-1}`` down to ``x_stop``, which has not been denoised at step ``stop`` yet.

    Args:
        predict_noise: ``(x (B, C, H, W), level (B,)) -> noise``.
        x: standard normal, (B, C, H, W).
        draws: standard normal tensors of the same shape, one for every step taken.
    """
    for i in range(schedule.steps - 1, stop, -1):
        noise = predict_noise(x, schedule.level(i, x.shape[0]).to(x.device))
        mean, log_variance = schedule.posterior(i, x, schedule.clean(i, x, noise).clamp(-1, 1))
        x = mean + math.exp(0.5 * log_variance) * next(draws)
    return x


def last_clean(
    predict_noise: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, x: Tensor, stop: int = 0
) -> Tensor:
    """The clean image that ``x_stop`` is taken for, not clamped. At step 0 its clamped value is the sample."""
    return schedule.clean(stop, x, predict_noise(x, schedule.level(stop, x.shape[0]).to(x.device)))
