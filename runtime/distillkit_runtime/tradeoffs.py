"""The tradeoff: a number from 0 (most realistic) to 1 (most faithful), or a map of such numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from distillkit_runtime.errors import RestoreError

Tradeoff = float | np.ndarray
"""A number in [0, 1]; or a map (h, w), float32, of one for each pixel."""
NODES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What a graph that takes one number restores a map at."""
ASPECT_TOLERANCE = 0.02


def check_tradeoff(value: Any) -> float:
    """Return ``value`` as a float.

    Raises:
        RestoreError: It is not a number from 0 to 1.
    """
    try:
        tradeoff = float(value)
    except (TypeError, ValueError):
        tradeoff = float("nan")
    # A comparison with nan is false, so nan is refused here as well.
    if not 0 <= tradeoff <= 1:
        raise RestoreError(f"a tradeoff is a number from 0 to 1, not {value}")
    return tradeoff


def is_map(tradeoff: Any) -> bool:
    """Tell a map from a number."""
    return isinstance(tradeoff, Image.Image) or np.ndim(tradeoff) >= 2


def fit_map(values: Any, height: int, width: int) -> Tradeoff:
    """Bring a map to the size of a picture; one that is the same everywhere becomes a number.

    Args:
        values: (h, w) of numbers from 0 to 1; or a gray PIL image, black for 0 and white for 1.
        height: Of the picture.
        width: Of the picture.

    Raises:
        RestoreError: Another shape or other proportions, or numbers outside [0, 1].
    """
    if isinstance(values, Image.Image):
        values = _gray_levels(values)
    tradeoffs = np.asarray(values, np.float32)
    _check_map(tradeoffs)
    rows, columns = tradeoffs.shape
    if abs(rows * width / (columns * height) - 1) > ASPECT_TOLERANCE:
        raise RestoreError(
            f"a tradeoff map of {columns} x {rows} pixels does not fit an image of {width} x "
            f"{height}: their proportions differ"
        )
    resized = _resize(tradeoffs, height, width)
    lowest = float(resized.min())
    if lowest == resized.max():
        return lowest
    return resized


def _check_map(tradeoffs: np.ndarray) -> None:
    if tradeoffs.ndim != 2 or not tradeoffs.size:
        raise RestoreError(f"a tradeoff map has the shape (h, w), not {tradeoffs.shape}")
    low = float(tradeoffs.min())
    high = float(tradeoffs.max())
    # A comparison with nan is false, so nan is refused here as well.
    if not (low >= 0 and high <= 1):
        raise RestoreError(
            f"a tradeoff map holds numbers from 0 to 1; this one, {low:g} to {high:g}. Divide the "
            "levels of an 8-bit mask by 255"
        )


def blend_nodes(
    restore: Callable[[float], np.ndarray], tradeoffs: np.ndarray, scale: int
) -> np.ndarray:
    """Restore at nodes, and interpolate each pixel linearly between the two nearest.

    Args:
        restore: Restores at one tradeoff, to (3, scale h, scale w).
        tradeoffs: The map (h, w).
        scale: Output size divided by input size.
    """
    height, width = tradeoffs.shape
    enlarged = _resize(tradeoffs, height * scale, width * scale)
    restored = np.zeros((3, *enlarged.shape), np.float32)
    for node in NODES:
        weights = (1 - np.abs(enlarged - node) / NODES[1]).clip(min=0)
        if weights.any():
            restored += weights * restore(node)
    return restored


def _is_opaque(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return True
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Turn a gray image of 1, 8 or 16 bits into numbers from 0 to 1."""
    image = ImageOps.exif_transpose(image)
    # What a transparent layer shows depends on what is below it, which is not in the file.
    if not _is_opaque(image):
        raise RestoreError(
            "a tradeoff map has no transparency; fill its background, black for 0 (most realistic) "
            "to white for 1 (most faithful)"
        )
    if image.mode.startswith("I"):
        return np.asarray(image, np.float32) / 65535
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L"), np.float32) / 255


def _resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (h, w): by means where it shrinks, linearly where it grows."""
    rows, columns = values.shape
    if (rows, columns) == (height, width):
        return values
    if height <= rows and width <= columns:
        return _means(_means(values, height, 0), width, 1).astype(np.float32)
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def _means(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Average an axis over ``size`` sections, each of which takes pixels as a whole."""
    edges = np.arange(size + 1) * values.shape[axis]
    starts = edges[:-1] // size
    ends = -(-edges[1:] // size)
    sums = np.insert(values.cumsum(axis, np.float64), 0, 0, axis)
    counts = np.expand_dims(ends - starts, 1 - axis)
    return (sums.take(ends, axis) - sums.take(starts, axis)) / counts
