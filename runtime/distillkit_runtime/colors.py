"""Give a restored picture the colors of its input, as the student was evaluated.

The formulas are those of StableSR (Wang et al. 2024). Planes are fixed one by one, which bounds
the memory.
"""

from __future__ import annotations

import numpy as np

WAVELET_LEVELS = 5
EPS = 1e-5
"""Added to variances of values in [0, 1]."""


def fix_colors(restored: np.ndarray, lq: np.ndarray, fix: str) -> None:
    """Fix the colors of a picture in place.

    Args:
        restored: (scale h, scale w, C), uint8, uint16 or float32 in [0, 1].
        lq: The input (h, w, C) of the same type.
        fix: ``"none"``, ``"adain"`` (mean and standard deviation of each channel) or ``"wavelet"``
            (the coarse part of the input, the fine part of the result).
    """
    if fix == "none":
        return
    fixed_plane = _fix_by_adain if fix == "adain" else _fix_by_wavelet
    for channel in range(restored.shape[2]):
        plane = as_float(restored[..., channel])
        fixed = fixed_plane(plane, as_float(lq[..., channel]))
        restored[..., channel] = as_stored(fixed, restored.dtype)


def as_float(array: np.ndarray) -> np.ndarray:
    """Convert uint8, uint16 or float in [0, 1] to float32 in [0, 1]."""
    if array.dtype.kind == "u":
        return array / np.float32(np.iinfo(array.dtype).max)
    return array.astype(np.float32)


def as_stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Invert :func:`as_float`: clamp, and round to nearest if ``dtype`` is an integer."""
    values = values.clip(0, 1)
    if dtype.kind == "u":
        values = (values * np.iinfo(dtype).max).round()
    return values.astype(dtype)


def _fix_by_adain(plane: np.ndarray, lq: np.ndarray) -> np.ndarray:
    mean, std = _measure(plane)
    wanted_mean, wanted_std = _measure(lq)
    return (plane - mean) / std * wanted_std + wanted_mean


def _measure(plane: np.ndarray) -> tuple[np.float32, np.float32]:
    mean = plane.mean(dtype=np.float64)
    variance = np.square(plane - mean).sum(dtype=np.float64) / max(plane.size - 1, 1)
    return np.float32(mean), np.float32(np.sqrt(variance + EPS))


def _fix_by_wavelet(plane: np.ndarray, lq: np.ndarray) -> np.ndarray:
    scale = len(plane) // len(lq)
    reference = lq
    if scale > 1:
        reference = _enlarge(_enlarge(lq, scale).T, scale).T.clip(0, 1)
    return plane - _blur(plane) + _blur(reference)


def _blur(plane: np.ndarray) -> np.ndarray:
    """Convolve with [1, 2, 1] / 4 along both axes, at dilations 1, 2, 4, ...; edges repeat."""
    for level in range(WAVELET_LEVELS):
        reach = 2**level
        for _ in range(2):
            # Transposed twice, each axis has its turn.
            padded = np.pad(plane, ((reach, reach), (0, 0)), "edge")
            neighbors = padded[: -2 * reach] + padded[2 * reach :]
            plane = (neighbors / 4 + plane / 2).T
    return plane


def _enlarge(plane: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge (h, w) to (scale h, w) by the cubic kernel with a = -0.75; edges repeat."""
    rows = len(plane)
    positions = ((np.arange(rows * scale) + 0.5) / scale - 0.5).astype(np.float32)
    first = np.floor(positions).astype(int)
    total = np.zeros((rows * scale, plane.shape[1]), np.float32)
    for tap in (-1, 0, 1, 2):
        distances = np.abs(positions - (first + tap))
        nearest = (first + tap).clip(0, rows - 1)
        total += _cubic(distances)[:, None].astype(np.float32) * plane[nearest]
    return total


def _cubic(x: np.ndarray) -> np.ndarray:
    near = 1.25 * x**3 - 2.25 * x**2 + 1
    far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, far)
