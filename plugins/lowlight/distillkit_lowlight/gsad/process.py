"""GSAD's forward process: variance preserving, with the signal level itself as time."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit import Coefficients, ForwardProcess

CLEANEST = 1 - 1e-6
"""Highest level drawn: its noise factor, .0014, is still a number to divide by."""


class LevelProcess(ForwardProcess):
    """``z_t = a z_0 + sqrt(1 - a^2) eps`` whose time is the level ``a = sqrt(alpha_bar)`` in (0, 1): large is clean.

    Training draws ``t`` uniformly from 1..T and then ``a`` uniformly between the levels of ``t`` and ``t - 1`` (Chen et al. 2020,
    WaveGrad, alg. 1), here for every sample by itself. Levels above :data:`CLEANEST` are drawn as that.

    Args:
        edges: ``sqrt([1, abar_0, ..., abar_{T-1}])`` of the training schedule, decreasing, (T + 1,).
    """

    def __init__(self, edges: Tensor) -> None:
        self.edges = edges.double()

    def coefficients(self, t: Tensor) -> Coefficients:
        a = t.float().reshape(-1, 1, 1, 1)
        return Coefficients(a, torch.zeros_like(a), (1 - a**2).sqrt())

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """``a^2 = SNR / (1 + SNR)``."""
        return torch.sigmoid(log_snr).sqrt()

    def sample_timesteps(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        t = torch.randint(1, self.edges.numel(), (n,), generator=generator)
        share = torch.rand(n, dtype=torch.float64, generator=generator)
        return torch.lerp(self.edges[t - 1], self.edges[t], share).clamp(max=CLEANEST).float()

    def log_snr_range(self) -> tuple[float, float]:
        low, high = self.log_snr(
            torch.stack([self.edges[-1], torch.tensor(CLEANEST, dtype=torch.float64)])
        )
        return float(low), float(high)
