"""Affine Gaussian forward processes: ``z_t = signal(t) z_0 + shift(t) y + noise(t) eps``.

Every diffusion or flow model here noises its latents in this one form. What tells them apart is three functions of time:

====================  =====================  ===========  ======================
process               signal                 shift        noise
====================  =====================  ===========  ======================
variance preserving   sqrt(alpha_bar)        0            sqrt(1 - alpha_bar)
residual shifting     1 - eta                eta          kappa sqrt(eta)
rectified flow        1 - t                  0            t
====================  =====================  ===========  ======================

``SNR(t) = (signal / noise)^2`` is what two processes have in common: times of equal SNR carry equally noisy latents.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Factors of ``z_0``, ``y`` and ``eps`` at the times of a batch, each of shape (B, 1, 1, 1)."""

    signal: Tensor
    shift: Tensor
    noise: Tensor

    @property
    def ratio(self) -> Tensor:
        """``signal / noise``, the square root of the SNR, (B, 1, 1, 1)."""
        return self.signal / self.noise


class ForwardProcess(ABC):
    """How a model noises a clean latent. Times are tensors of shape (B,): floats, or integer indices of a grid."""

    num_train_timesteps: int | None = None
    """Number of discrete times, or None for continuous time."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Signal, shift and noise factors at ``t`` (B,), each (B, 1, 1, 1) in float32."""

    @abstractmethod
    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`, (B,) -> (B,); the nearest time on a discrete grid."""

    @abstractmethod
    def sample_timesteps(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` times as the model saw them in training, (n,), on the CPU."""

    @abstractmethod
    def log_snr_range(self) -> tuple[float, float]:
        """The lowest and highest log SNR the model was trained at."""

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        """Time derivatives of the coefficients along the path, for networks that predict a velocity."""
        raise TypeError(
            f"{type(self).__name__} defines no velocity; its networks predict 'noise' or 'clean'"
        )

    def log_snr(self, t: Tensor) -> Tensor:
        """``2 ln(signal / noise)`` at ``t``: (B,) -> (B,)."""
        return 2 * self.coefficients(t).ratio.flatten().log()

    def add_noise(self, z_0: Tensor, noise: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """``z_t = signal z_0 + shift y + noise eps``. ``z_0``, ``noise``, ``y``: (B, C, h, w); ``t``: (B,)."""
        c = self.coefficients(t)
        z_t = c.signal * z_0 + c.noise * noise
        return z_t if y is None else z_t + c.shift * y


def _per_sample(value: Tensor) -> Tensor:
    return value.float().reshape(-1, 1, 1, 1)


class TabulatedProcess(ForwardProcess):
    """A process known at ``num_train_timesteps`` integer times, noisiest last.

    Args:
        signal, shift, noise: tables of shape (num_train_timesteps,), kept in float64.
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
    """DDPM on a grid: ``z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps`` (Ho et al. 2020, eq. 4)."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        a = alphas_cumprod.double()
        super().__init__(a.sqrt(), torch.zeros_like(a), (1 - a).sqrt())

    @classmethod
    def scaled_linear(
        cls, beta_start: float, beta_end: float, num_train_timesteps: int
    ) -> VariancePreserving:
        """Betas linear in their square roots, computed in float32 as latent diffusion models do."""
        betas = (
            torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32)
            ** 2
        )
        return cls((1 - betas).cumprod(0))

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        """v-prediction, ``v = signal eps - noise z_0`` (Salimans & Ho 2022): the derivative in the angle of (signal, noise)."""
        c = self.coefficients(t)
        return Coefficients(-c.noise, c.shift, c.signal)


class ResidualShifting(TabulatedProcess):
    """``z_t = (1 - eta_t) z_0 + eta_t y + kappa sqrt(eta_t) eps`` on a grid (Yue et al. 2023, eq. 2).

    Args:
        sqrt_eta: increasing square roots of eta, (num_train_timesteps,).
        kappa: noise strength.
    """

    def __init__(self, sqrt_eta: Tensor, kappa: float) -> None:
        s = sqrt_eta.double()
        super().__init__(1 - s**2, s**2, kappa * s)
        self.kappa = kappa


class ContinuousProcess(ForwardProcess):
    """A process in continuous time, sampled uniformly between ``t_min`` (cleanest) and ``t_max`` (noisiest)."""

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
    """Residual shifting with ``sqrt(eta) = t`` for t in (0, 1): ``z_t = (1 - t^2) z_0 + t^2 y + kappa t eps``."""

    def __init__(self, kappa: float, t_min: float = 0.03, t_max: float = 0.99) -> None:
        super().__init__(t_min, t_max)
        self.kappa = kappa

    def coefficients(self, t: Tensor) -> Coefficients:
        u = _per_sample(t)
        return Coefficients(1 - u**2, u**2, self.kappa * u)

    def timestep_at(self, log_snr: Tensor) -> Tensor:
        """The positive root of ``u^2 + kappa r u - 1 = 0`` with ``r = signal / noise``."""
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
    """The times of ``target`` at which it is as noisy as ``source`` at ``t``.

    Returns:
        the times, (B,), and a boolean mask, (B,), False where ``target`` was never trained at that SNR: such draws are to be
        dropped. On a discrete target the nearest time is returned and up to half a grid step beyond its range is allowed.
    """
    wanted = source.log_snr(t)
    matched = target.timestep_at(wanted)
    low, high = target.log_snr_range()
    slack = (
        1e-4
        if target.num_train_timesteps is None
        else 0.5 * (high - low) / target.num_train_timesteps
    )
    return matched, (wanted >= low - slack) & (wanted <= high + slack)
