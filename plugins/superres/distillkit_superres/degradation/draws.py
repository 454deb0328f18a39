"""What chance decides for one image: drawn first and on its own, so that it can be looked at without degrading anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Generator, Tensor

from distillkit_superres.degradation.kernels import SHAPES, Shape, gaussian_kernel, sinc_kernel
from distillkit_superres.degradation.options import RealESRGANConfig, Stage

Mode = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
T = TypeVar("T")


@dataclass(frozen=True)
class Gaussian:
    """Parameters of :func:`gaussian_kernel`."""

    shape: Shape
    size: int
    sigma_x: float
    sigma_y: float
    theta: float
    beta: float

    def kernel(self) -> Tensor:
        return gaussian_kernel(
            self.shape, self.size, self.sigma_x, self.sigma_y, self.theta, self.beta
        )


@dataclass(frozen=True)
class Sinc:
    """Parameters of :func:`sinc_kernel`."""

    size: int
    cutoff: float

    def kernel(self) -> Tensor:
        return sinc_kernel(self.size, self.cutoff)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation ``strength`` / 255, or Poisson noise times ``strength``."""

    kind: Literal["gaussian", "poisson"]
    strength: float
    gray: bool


@dataclass(frozen=True)
class Round:
    """One blur (or none), resize and noise."""

    blur: Gaussian | Sinc | None
    factor: float
    mode: Mode
    noise: Noise


@dataclass(frozen=True)
class Draws:
    """Everything drawn for one image but the noise itself."""

    first: Round
    first_quality: float
    second: Round | None
    second_quality: float
    final_mode: Mode
    final_sinc: Sinc | None
    jpeg_last: bool
    """The second JPEG follows the final resize and sinc filter; otherwise it comes before them."""


def draw(config: RealESRGANConfig, g: Generator) -> Draws:
    """Draw for one image. ``g`` lives on the CPU."""
    return Draws(
        first=_round(config.first, g),
        first_quality=_uniform(g, *config.first.jpeg_quality),
        second=_round(config.second, g) if _chance(g, config.second_prob) else None,
        second_quality=_uniform(g, *config.second.jpeg_quality),
        final_mode=_pick(g, MODES),
        final_sinc=_final_sinc(config, g),
        jpeg_last=_chance(g, 0.5),
    )


def _round(stage: Stage, g: Generator) -> Round:
    blur = _blur(stage, g) if _chance(g, stage.blur_prob) else None
    direction = _pick(g, ("up", "down", "keep"), stage.resize_prob)
    low, high = stage.resize_range
    factor = {"up": _uniform(g, 1, high), "down": _uniform(g, low, 1), "keep": 1.0}[direction]
    kind: Literal["gaussian", "poisson"] = (
        "gaussian" if _chance(g, stage.gaussian_prob) else "poisson"
    )
    strength = _uniform(g, *(stage.gaussian_sigma if kind == "gaussian" else stage.poisson_scale))
    return Round(blur, factor, _pick(g, MODES), Noise(kind, strength, _chance(g, stage.gray_prob)))


def _blur(stage: Stage, g: Generator) -> Gaussian | Sinc:
    size = _odd(g, stage.kernel_sizes)
    if _chance(g, stage.sinc_prob):
        return Sinc(size, _uniform(g, math.pi / 3 if size < 13 else math.pi / 5, math.pi))
    shape = _pick(g, SHAPES, stage.kernel_mix)
    low, high = stage.beta_plateau if shape.startswith("plateau") else stage.beta_generalised
    return Gaussian(
        shape=shape,
        size=size,
        sigma_x=_uniform(g, *stage.sigma),
        sigma_y=_uniform(g, *stage.sigma),
        theta=_uniform(g, -math.pi, math.pi),
        beta=_uniform(g, low, 1) if _chance(g, 0.5) else _uniform(g, 1, high),
    )


def _final_sinc(config: RealESRGANConfig, g: Generator) -> Sinc | None:
    if not _chance(g, config.final_sinc_prob):
        return None
    return Sinc(_odd(g, config.final_sinc_sizes), _uniform(g, math.pi / 3, math.pi))


def _uniform(g: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=g, dtype=torch.float64).item()


def _chance(g: Generator, probability: float) -> bool:
    return torch.rand((), generator=g, dtype=torch.float64).item() < probability


def _pick(g: Generator, options: Sequence[T], shares: Sequence[float] | None = None) -> T:
    weights = torch.tensor(shares or [1.0] * len(options), dtype=torch.float64)
    return options[int(torch.multinomial(weights, 1, generator=g))]


def _odd(g: Generator, sizes: tuple[int, int]) -> int:
    low, high = sizes
    return low + 2 * int(torch.randint((high - low) // 2 + 1, (), generator=g))
