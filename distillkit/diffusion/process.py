"""Affine Gaussian forward processes: ``z_t = signal(t) z_0 + shift(t) y + noise(t) eps``.

Every diffusion or flow model here adds noise to its latents in this one form. Three functions of
time tell them apart:

====================  =====================  ===========  ======================
process               signal                 shift        noise
====================  =====================  ===========  ======================
variance preserving   sqrt(alpha_bar)        0            sqrt(1 - alpha_bar)
residual shifting     1 - eta                eta          kappa sqrt(eta)
rectified flow        1 - t                  0            t
====================  =====================  ===========  ======================

``SNR(t) = (signal / noise)^2`` is what two processes have in common: timesteps of equal SNR carry
equally noisy latents.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Factors of ``z_0``, ``y`` and ``eps`` at a batch of timesteps, each (B, 1, 1, 1)."""

    signal: Tensor
    shift: Tensor
    noise: Tensor

    @property
    def ratio(self) -> Tensor:
        """``signal / noise``, the square root of the SNR, (B, 1, 1, 1)."""
        return self.signal / self.noise


class ForwardProcess(ABC):
    """How a model adds noise to a clean latent.

    Timesteps are tensors of shape (B,): floats, or integer indices of a grid.
    """

    num_train_timesteps: int | None = None
    """Number of discrete timesteps, or None for continuous time."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Return signal, shift and noise factors at ``t`` (B,), each (B, 1, 1, 1) in float32."""

    @abstractmethod
    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """Invert :meth:`log_snr`, (B,) -> (B,); on a discrete grid to the nearest timestep."""

    @abstractmethod
    def sample_timesteps(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` timesteps as in the model's training, (n,), on the CPU."""

    @abstractmethod
    def log_snr_range(self) -> tuple[float, float]:
        """Return the lowest and the highest log SNR that the model was trained at."""

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        """Return the time derivatives of the coefficients, for networks of ``v_prediction``."""
        raise TypeError(
            f"{type(self).__name__} defines no velocity; its networks predict epsilon or sample"
        )

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ``2 ln(signal / noise)`` at ``t``: (B,) -> (B,)."""
        return 2 * self.coefficients(t).ratio.flatten().log()

    def add_noise(self, z_0: Tensor, noise: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return ``z_t = signal z_0 + shift y + noise eps``.

        Args:
            z_0: Clean latents, (B, C, h, w).
            noise: Standard normal, (B, C, h, w).
            t: Timesteps, (B,).
            y: The latent that ``shift(t)`` multiplies, (B, C, h, w), or None.
        """
        c = self.coefficients(t)
        z_t = c.signal * z_0 + c.noise * noise
        if y is not None:
            z_t = z_t + c.shift * y
        return z_t


def _per_sample(value: Tensor) -> Tensor:
    return value.float().reshape(-1, 1, 1, 1)


class TabulatedProcess(ForwardProcess):
    """A process known at ``num_train_timesteps`` integer timesteps, noisiest last.

    Args:
        signal: Factors of ``z_0``, (num_train_timesteps,); tables are kept in float64.
        shift: Factors of ``y``, likewise.
        noise: Factors of ``eps``, likewise.
    """

    def __init__(self, signal: Tensor, shift: Tensor, noise: Tensor) -> None:
        self.table = torch.stack([signal.double(), shift.double(), noise.double()])
        self.num_train_timesteps = signal.numel()
        self._log_snr = 2 * (self.table[0] / self.table[2]).log()

    def coefficients(self, t: Tensor) -> Coefficients:
        signal, shift, noise = self.table.to(t.device)[:, t.long()]
        return Coefficients(_per_sample(signal), _per_sample(shift), _per_sample(noise))

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        distance = (log_snr.double()[:, None] - self._log_snr.to(log_snr.device)[None, :]).abs()
        return distance.argmin(dim=1)

    def sample_timesteps(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        assert self.num_train_timesteps is not None
        return torch.randint(self.num_train_timesteps, (n,), generator=generator)

    def log_snr_range(self) -> tuple[float, float]:
        return float(self._log_snr.min()), float(self._log_snr.max())


class VariancePreserving(TabulatedProcess):
    """DDPM on a grid, ``z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps``.

    Ho et al. 2020, eq. 4.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        a = alphas_cumprod.double()
        super().__init__(a.sqrt(), torch.zeros_like(a), (1 - a).sqrt())

    @classmethod
    def scaled_linear(
        cls, beta_start: float, beta_end: float, num_train_timesteps: int
    ) -> VariancePreserving:
        """Make a process whose betas are linear in their square roots.

        They are computed in float32, as latent diffusion models do.
        """
        betas = (
            torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32)
            ** 2
        )
        return cls((1 - betas).cumprod(0))

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        """Return the derivatives in the angle of (signal, noise).

        They give v-prediction, ``v = signal eps - noise z_0`` (Salimans & Ho 2022).
        """
        c = self.coefficients(t)
        return Coefficients(-c.noise, c.shift, c.signal)


class ResidualShifting(TabulatedProcess):
    """Residual shifting on a grid, ``z_t = (1 - eta_t) z_0 + eta_t y + kappa sqrt(eta_t) eps``.

    Yue et al. 2023, eq. 2.

    Args:
        sqrt_eta: Increasing square roots of eta, (num_train_timesteps,).
        kappa: Noise strength.
    """

    def __init__(self, sqrt_eta: Tensor, kappa: float) -> None:
        s = sqrt_eta.double()
        super().__init__(1 - s**2, s**2, kappa * s)
        self.kappa = kappa


class ContinuousProcess(ForwardProcess):
    """A process in continuous time, sampled uniformly from ``t_min`` (cleanest) to ``t_max``."""

    def __init__(self, t_min: float, t_max: float) -> None:
        self.t_min, self.t_max = t_min, t_max

    def sample_timesteps(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.t_min + (self.t_max - self.t_min) * torch.rand(n, generator=generator)

    def log_snr_range(self) -> tuple[float, float]:
        ends = self.log_snr(torch.tensor([self.t_max, self.t_min]))
        return float(ends[0]), float(ends[1])


class CosineVariancePreserving(ContinuousProcess):
    """``signal = cos(pi t / 2)``, ``noise = sin(pi t / 2)`` for t in (0, 1)."""

    def __init__(self, t_min: float = 0.03, t_max: float = 0.97) -> None:
        super().__init__(t_min, t_max)

    def coefficients(self, t: Tensor) -> Coefficients:
        angle = _per_sample(t) * (math.pi / 2)
        return Coefficients(angle.cos(), torch.zeros_like(angle), angle.sin())

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        c = self.coefficients(t)
        return Coefficients(-c.noise, c.shift, c.signal)

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


class ContinuousResidualShifting(ContinuousProcess):
    """Residual shifting with ``sqrt(eta) = t`` for t in (0, 1).

    ``z_t = (1 - t^2) z_0 + t^2 y + kappa t eps``
    """

    def __init__(self, kappa: float, t_min: float = 0.03, t_max: float = 0.99) -> None:
        super().__init__(t_min, t_max)
        self.kappa = kappa

    def coefficients(self, t: Tensor) -> Coefficients:
        u = _per_sample(t)
        return Coefficients(1 - u**2, u**2, self.kappa * u)

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """Return the positive root of ``u^2 + kappa r u - 1 = 0``, ``r = signal / noise``."""
        kr = self.kappa * torch.exp(log_snr / 2)
        return 2 / (kr + (kr**2 + 4).sqrt())


class RectifiedFlow(ContinuousProcess):
    """``z_t = (1 - t) z_0 + t eps`` for t in (0, 1), velocity ``eps - z_0`` (Liu et al. 2022)."""

    def __init__(self, t_min: float = 0.03, t_max: float = 0.97) -> None:
        super().__init__(t_min, t_max)

    def coefficients(self, t: Tensor) -> Coefficients:
        t = _per_sample(t)
        return Coefficients(1 - t, torch.zeros_like(t), t)

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(_per_sample(t))
        return Coefficients(-one, torch.zeros_like(one), one)

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


def match_timesteps(
    source: ForwardProcess, t: Tensor, target: ForwardProcess
) -> tuple[Tensor, Tensor]:
    """Find the timesteps of ``target`` whose SNR equals that of ``source`` at ``t``.

    On a discrete target the nearest timestep is returned, and up to half a grid step beyond its
    range is allowed.

    Args:
        source: The process that ``t`` belongs to.
        t: Timesteps of ``source``, (B,).
        target: The process to match.

    Returns:
        The timesteps, (B,), and a boolean mask, (B,), False where ``target`` was never trained at
        that SNR.
    """
    wanted = source.log_snr(t)
    matched = target.timestep_at(wanted)
    low, high = target.log_snr_range()
    if target.num_train_timesteps is None:
        slack = 1e-4
    else:
        slack = 0.5 * (high - low) / target.num_train_timesteps
    known = (wanted >= low - slack) & (wanted <= high + slack)
    return matched, known
