"""Blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, Sec. 3.1; BSRGAN's generalised and plateau Gaussians).

All are square, of odd size, sum to 1, and are computed in float64 on the CPU: they are small.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Shape = Literal[
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"
]
SHAPES: tuple[Shape, ...] = get_args(Shape)


def gaussian_kernel(
    shape: Shape, size: int, sigma_x: float, sigma_y: float, theta: float, beta: float
) -> Tensor:
    """A Gaussian-like blur kernel, (size, size), float64.

    With ``q = x^T Sigma^-1 x`` and ``Sigma = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T``, x to the right and y down, in
    pixels: Gaussian ``exp(-q / 2)``, generalised ``exp(-q^beta / 2)``, plateau ``1 / (1 + q^beta)``.

    Args:
        shape: the ``iso`` shapes use ``sigma_x`` in both directions and no angle; plain Gaussians use no ``beta``.
        size: odd. sigma_x, sigma_y: standard deviations in pixels. theta: radians.
    """
    if shape.endswith("aniso"):
        cos, sin = math.cos(theta), math.sin(theta)
    else:
        cos, sin, sigma_y = 1.0, 0.0, sigma_x
    x, y = _grid(size)
    q = ((cos * x + sin * y) / sigma_x) ** 2 + ((cos * y - sin * x) / sigma_y) ** 2
    if shape.startswith("plateau"):
        kernel = 1 / (1 + q**beta)
    elif shape.startswith("generalized"):
        kernel = torch.exp(-0.5 * q**beta)
    else:
        kernel = torch.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass filter cut to a square, (size, size), float64.

    ``w J1(w r) / (2 pi r)``, which is ``w^2 / (4 pi)`` at r = 0, made to sum 1.

    Args:
        size: odd. cutoff: w, radians per pixel, in (0, pi]; it leaves the ringing that sharpening and compression leave.
    """
    x, y = _grid(size)
    r = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def padded(kernel: Tensor, size: int) -> Tensor:
    """``kernel`` (k, k) with zeros around it, (size, size). It filters as before; kernels of one size can be stacked."""
    margin = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, [margin] * 4)


def fitted(kernel: Tensor, side: int) -> Tensor:
    """The middle of ``kernel`` that reflection can serve in an image whose shorter side is ``side``, rescaled to sum 1."""
    spare = kernel.shape[-1] // 2 - (side - 1)
    if spare <= 0:
        return kernel
    middle = kernel[spare:-spare, spare:-spare]
    return middle / middle.sum()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
