"""GSAD's forward process: variance preserving, with the noise level itself as timestep."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit import Coefficients, ForwardProcess

CLEANEST_LEVEL = 1 - 1e-6
"""The highest level drawn: its noise factor, .0014, is still a number to divide by."""


class NoiseLevelProcess(ForwardProcess):
    """``z_t = a z_0 + sqrt(1 - a^2) eps``; the timestep is the level ``a = sqrt(alpha_bar)``.

    Levels lie in (0, 1), and large ones are clean. Training draws ``t`` uniformly from 1..T and
    then ``a`` uniformly between the levels of ``t`` and ``t - 1`` (Chen et al. 2020, WaveGrad,
    algorithm 1). Here every image of a batch has draws of its own.

    Args:
        edges: ``sqrt([1, abar_0, ..., abar_{T-1}])`` of the training schedule, decreasing,
            shape (T + 1,).
    """

    def __init__(self, edges: Tensor) -> None:
        self.edges = edges.double()

    def coefficients(self, t: Tensor) -> Coefficients:
        level = t.float().reshape(-1, 1, 1, 1)
        return Coefficients(
            signal=level,
            shift=torch.zeros_like(level),
            noise=(1 - level**2).sqrt(),
        )

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """Find the level of a signal-to-noise ratio: ``a^2 = SNR / (1 + SNR)``."""
        return torch.sigmoid(log_snr).sqrt()

    def sample_timesteps(
        self,
        n: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        t = torch.randint(1, self.edges.numel(), (n,), generator=generator)
        share = torch.rand(n, dtype=torch.float64, generator=generator)
        above = self.edges[t - 1]
        below = self.edges[t]
        levels = torch.lerp(above, below, share)
        return levels.clamp(max=CLEANEST_LEVEL).float()

    def log_snr_range(self) -> tuple[float, float]:
        cleanest = torch.tensor(CLEANEST_LEVEL, dtype=torch.float64)
        noisiest = self.edges[-1]
        low, high = self.log_snr(torch.stack([noisiest, cleanest]))
        return float(low), float(high)
