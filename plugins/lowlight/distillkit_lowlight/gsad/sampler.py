"""GSAD's sampler: ancestral DDPM over any schedule, for whole batches.

The noise of every step is passed in, so that callers decide where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from distillkit_lowlight.schedule import ScheduleKind, make_betas, make_tables

PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""A denoiser: ``(x (B, C, H, W), noise level (B,)) -> epsilon (B, C, H, W)``."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of ``steps`` steps.

    The network is told the noise level, so the schedule need not be the one of training.
    """

    steps: int
    beta_start: float
    beta_end: float
    kind: ScheduleKind = "linear"

    @cached_property
    def betas(self) -> Tensor:
        """The variances, shape (steps,), float64."""
        return make_betas(self.kind, self.steps, self.beta_start, self.beta_end)

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """The factors of every step, each of shape (steps,), float32, on the CPU."""
        return make_tables(self.betas)

    def noise_level(self, step: int, batch: int) -> Tensor:
        """Repeat the level ``sqrt(abar_i)`` of step i for a batch, shape (batch,)."""
        return self.tables["sqrt_alphas_cumprod"][step].repeat(batch)

    def sample_from_epsilon(
        self,
        step: int,
        x: Tensor,
        epsilon: Tensor,
    ) -> Tensor:
        """Compute ``x_0 = x_i / sqrt(abar_i) - sqrt(1 / abar_i - 1) eps``, not clamped."""
        x_factor = self._at("sqrt_recip_alphas_cumprod", step)
        epsilon_factor = self._at("sqrt_recipm1_alphas_cumprod", step)
        return x_factor * x - epsilon_factor * epsilon

    def posterior(
        self,
        step: int,
        x: Tensor,
        sample: Tensor,
    ) -> tuple[Tensor, float]:
        """Compute q(x_{i-1} | x_i, x_0), eq. 6 and 7 of Ho et al. (2020).

        Args:
            step: The step i.
            x: The noisy image x_i.
            sample: The clean image x_0.

        Returns:
            Its mean and its log-variance; the variance of step 0 is clipped.
        """
        sample_factor = self._at("posterior_mean_coef1", step)
        x_factor = self._at("posterior_mean_coef2", step)
        mean = sample_factor * sample + x_factor * x
        return mean, self._at("posterior_log_variance_clipped", step)

    def _at(self, table: str, step: int) -> float:
        return float(self.tables[table][step])


TRAINING = Schedule(500, 1e-4, 2e-2)
"""The schedule of GSAD's training."""

EVALUATION = {
    "lol-v1": Schedule(20, 6e-4, 0.88),
    "lol-v2-real": Schedule(10, 9e-4, 0.85),
    "lol-v2-syn": Schedule(10, 2e-3, 0.84),
}
"""The schedules of the published numbers, by data set.

The last level of v2-syn, .0329, is noisier than training ever was (.0797).
"""


def run_reverse_chain(
    predict_noise: PredictNoise,
    schedule: Schedule,
    x: Tensor,
    noises: Iterator[Tensor],
    stop: int = 0,
) -> Tensor:
    """Walk from pure noise ``x_{T-1}`` down to ``x_stop``.

    Args:
        predict_noise: The denoiser.
        schedule: The steps to take.
        x: Standard normal noise, shape (B, C, H, W).
        noises: Standard normal tensors of the same shape, one for every step taken.
        stop: The step to stop at, whose own denoising is left to the caller.
    """
    for step in range(schedule.steps - 1, stop, -1):
        # Clamped as in the published sampler, before the posterior mixes it in.
        sample = predict_sample(predict_noise, schedule, x, step).clamp(-1, 1)
        mean, log_variance = schedule.posterior(step, x, sample)
        deviation = math.exp(0.5 * log_variance)
        x = mean + deviation * next(noises)
    return x


def predict_sample(
    predict_noise: PredictNoise,
    schedule: Schedule,
    x: Tensor,
    step: int = 0,
) -> Tensor:
    """Predict the clean image of ``x_step``, not clamped.

    At step 0 its clamped value is what the sampler returns.

    Args:
        predict_noise: The denoiser.
        schedule: The schedule that ``step`` belongs to.
        x: The noisy image, shape (B, C, H, W).
        step: The step that ``x`` is at.
    """
    level = schedule.noise_level(step, x.shape[0]).to(x.device)
    return schedule.sample_from_epsilon(step, x, predict_noise(x, level))
