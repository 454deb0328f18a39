"""Blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, Sec. 3.1).

Generalized and plateau Gaussians are BSRGAN's. All kernels are square, of odd size and sum to 1.
They are computed in float64 on the CPU: they are small.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

KernelShape = Literal[
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
]
KERNEL_SHAPES: tuple[KernelShape, ...] = get_args(KernelShape)


def gaussian_kernel(
    shape: KernelShape,
    size: int,
    sigma_x: float,
    sigma_y: float,
    theta: float,
    beta: float,
) -> Tensor:
    """Compute a Gaussian-like blur kernel.

    With ``q = x^T Sigma^-1 x`` and ``Sigma = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T``, x to
    the right and y down, in pixels, it is ``exp(-q / 2)`` for a Gaussian, ``exp(-q^beta / 2)`` for
    a generalized one, and ``1 / (1 + q^beta)`` for a plateau.

    Args:
        shape: The ``iso`` shapes use ``sigma_x`` in both directions and no angle; plain Gaussians
            use no ``beta``.
        size: Side of the kernel, odd.
        sigma_x: Standard deviation in pixels.
        sigma_y: Standard deviation in pixels.
        theta: Angle in radians.
        beta: Exponent.

    Returns:
        Shape (size, size), float64.
    """
    if shape.endswith("aniso"):
        cos = math.cos(theta)
        sin = math.sin(theta)
    else:
        cos = 1.0
        sin = 0.0
        sigma_y = sigma_x
    x, y = _make_grid(size)
    along_x = (cos * x + sin * y) / sigma_x
    along_y = (cos * y - sin * x) / sigma_y
    q = along_x**2 + along_y**2
    if shape.startswith("plateau"):
        kernel = 1 / (1 + q**beta)
    elif shape.startswith("generalized"):
        kernel = torch.exp(-0.5 * q**beta)
    else:
        kernel = torch.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Compute the ideal circular low-pass filter, cut to a square.

    It is ``w J1(w r) / (2 pi r)``, which is ``w^2 / (4 pi)`` at r = 0, scaled to sum to 1. It
    leaves the ringing that sharpening and compression leave.

    Args:
        size: Side of the kernel, odd.
        cutoff: The cutoff frequency w, radians per pixel, in (0, pi].

    Returns:
        Shape (size, size), float64.
    """
    x, y = _make_grid(size)
    r = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    # The formula has no value at r = 0, where this is its limit.
    center = size // 2
    kernel[center, center] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """Surround a kernel with zeros to (size, size).

    It filters as before; kernels of one size can be stacked.
    """
    margin = (size - kernel.shape[-1]) // 2
    return F.pad(kernel, [margin] * 4)


def fit_kernel(kernel: Tensor, side: int) -> Tensor:
    """Cut a kernel to what reflection can serve in a small image.

    Args:
        kernel: Shape (k, k).
        side: The image's shorter side.

    Returns:
        The middle of the kernel, rescaled to sum to 1.
    """
    excess = kernel.shape[-1] // 2 - (side - 1)
    if excess <= 0:
        return kernel
    middle = kernel[excess:-excess, excess:-excess]
    return middle / middle.sum()


def _make_grid(size: int) -> tuple[Tensor, Tensor]:
    """Make the x and y of each pixel, counted from the center."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
