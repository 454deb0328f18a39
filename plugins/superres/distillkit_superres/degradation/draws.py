"""The random parameters of the Real-ESRGAN degradation.

Those of an image are drawn first and on their own, so that they can be inspected without degrading
anything. The order of the draws is part of what a seed means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Generator, Tensor

from distillkit_superres.degradation.kernels import (
    KERNEL_SHAPES,
    KernelShape,
    gaussian_kernel,
    sinc_kernel,
)
from distillkit_superres.degradation.options import RealESRGANOptions, RoundOptions

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")
NoiseKind = Literal["gaussian", "poisson"]
T = TypeVar("T")


@dataclass(frozen=True)
class GaussianBlur:
    """Parameters of :func:`gaussian_kernel`."""

    shape: KernelShape
    size: int
    sigma_x: float
    sigma_y: float
    theta: float
    beta: float

    def kernel(self) -> Tensor:
        """Compute the kernel, (size, size), float64."""
        return gaussian_kernel(
            self.shape,
            self.size,
            self.sigma_x,
            self.sigma_y,
            self.theta,
            self.beta,
        )


@dataclass(frozen=True)
class SincBlur:
    """Parameters of :func:`sinc_kernel`."""

    size: int
    cutoff: float

    def kernel(self) -> Tensor:
        """Compute the kernel, (size, size), float64."""
        return sinc_kernel(self.size, self.cutoff)


Blur = GaussianBlur | SincBlur


@dataclass(frozen=True)
class Noise:
    """Gaussian or Poisson noise."""

    kind: NoiseKind
    strength: float
    """Gaussian: standard deviation in units of 1/255. Poisson: factor on the noise."""
    gray: bool
    """Whether all channels get the same noise."""


@dataclass(frozen=True)
class Round:
    """One round of blur (or none), resize and noise."""

    blur: Blur | None
    factor: float
    mode: ResizeMode
    noise: Noise


@dataclass(frozen=True)
class Draws:
    """Everything drawn for one image but the noise itself."""

    first: Round
    first_quality: float
    second: Round | None
    second_quality: float
    final_mode: ResizeMode
    final_sinc: SincBlur | None
    jpeg_last: bool
    """Whether the second JPEG follows the final resize and sinc filter, or comes before them."""


def draw(options: RealESRGANOptions, generator: Generator) -> Draws:
    """Draw the parameters for one image.

    Args:
        options: Their distributions.
        generator: Source of the draws, on the CPU.
    """
    first = _draw_round(options.first, generator)
    first_quality = _draw_uniform(options.first.jpeg_quality, generator)
    second = None
    if _draw_bool(options.second_prob, generator):
        second = _draw_round(options.second, generator)
    return Draws(
        first=first,
        first_quality=first_quality,
        second=second,
        second_quality=_draw_uniform(options.second.jpeg_quality, generator),
        final_mode=_choose(RESIZE_MODES, generator),
        final_sinc=_draw_final_sinc(options, generator),
        jpeg_last=_draw_bool(0.5, generator),
    )


def _draw_round(options: RoundOptions, generator: Generator) -> Round:
    blur = None
    if _draw_bool(options.blur_prob, generator):
        blur = _draw_blur(options, generator)
    factor = _draw_resize_factor(options, generator)
    kind: NoiseKind = "poisson"
    strengths = options.poisson_scale
    if _draw_bool(options.gaussian_prob, generator):
        kind = "gaussian"
        strengths = options.gaussian_sigma
    strength = _draw_uniform(strengths, generator)
    return Round(
        blur=blur,
        factor=factor,
        mode=_choose(RESIZE_MODES, generator),
        noise=Noise(kind, strength, gray=_draw_bool(options.gray_prob, generator)),
    )


def _draw_blur(options: RoundOptions, generator: Generator) -> Blur:
    size = _draw_odd(options.kernel_sizes, generator)
    if _draw_bool(options.sinc_prob, generator):
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return SincBlur(size, cutoff=_draw_uniform((lowest, math.pi), generator))
    shape = _choose(KERNEL_SHAPES, generator, options.kernel_mix)
    return GaussianBlur(
        shape=shape,
        size=size,
        sigma_x=_draw_uniform(options.sigma, generator),
        sigma_y=_draw_uniform(options.sigma, generator),
        theta=_draw_uniform((-math.pi, math.pi), generator),
        beta=_draw_beta(options, shape, generator),
    )


def _draw_beta(
    options: RoundOptions,
    shape: KernelShape,
    generator: Generator,
) -> float:
    """Draw an exponent, at even odds below or above 1."""
    if shape.startswith("plateau"):
        low, high = options.beta_plateau
    else:
        low, high = options.beta_generalized
    if _draw_bool(0.5, generator):
        return _draw_uniform((low, 1), generator)
    return _draw_uniform((1, high), generator)


def _draw_resize_factor(options: RoundOptions, generator: Generator) -> float:
    direction = _choose(("up", "down", "keep"), generator, options.resize_prob)
    low, high = options.resize_range
    # Both factors are drawn whatever the direction: leaving one out would change the later draws.
    factor_up = _draw_uniform((1, high), generator)
    factor_down = _draw_uniform((low, 1), generator)
    if direction == "up":
        return factor_up
    if direction == "down":
        return factor_down
    return 1.0


def _draw_final_sinc(
    options: RealESRGANOptions,
    generator: Generator,
) -> SincBlur | None:
    if not _draw_bool(options.final_sinc_prob, generator):
        return None
    return SincBlur(
        size=_draw_odd(options.final_sinc_sizes, generator),
        cutoff=_draw_uniform((math.pi / 3, math.pi), generator),
    )


def _draw_uniform(bounds: tuple[float, float], generator: Generator) -> float:
    low, high = bounds
    return low + (high - low) * _draw_unit(generator)


def _draw_bool(probability: float, generator: Generator) -> bool:
    return _draw_unit(generator) < probability


def _draw_unit(generator: Generator) -> float:
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def _choose(
    choices: Sequence[T],
    generator: Generator,
    probabilities: Sequence[float] | None = None,
) -> T:
    """Choose one of several, by default each as likely."""
    if probabilities is None:
        probabilities = [1.0] * len(choices)
    weights = torch.tensor(probabilities, dtype=torch.float64)
    index = torch.multinomial(weights, 1, generator=generator)
    return choices[int(index)]


def _draw_odd(bounds: tuple[int, int], generator: Generator) -> int:
    """Draw an odd number between two, both included."""
    low, high = bounds
    steps = torch.randint((high - low) // 2 + 1, (), generator=generator)
    return low + 2 * int(steps)
