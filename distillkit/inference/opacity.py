"""The opacity of an image, and the colors that it hides."""

from __future__ import annotations

import numpy as np
from PIL import Image


def split_opacity(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split an image of 1 to 4 channels, (h, w, C), into its colors and its opacity.

    Returns:
        The colors, (h, w, 1) or (h, w, 3), and the opacity, (h, w, 1); (h, w, 0) where C is odd,
        since gray and RGB have none.
    """
    has_opacity = array.shape[2] % 2 == 0
    colors = array.shape[2] - has_opacity
    return array[..., :colors], array[..., colors:]


def fill_hidden_colors(colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Give transparent pixels the color of opaque ones nearby.

    Nobody sees the colors that transparent pixels are stored with, but a network would carry them
    over the edge into what is seen. Pixels that are seen keep theirs.

    Args:
        colors: (h, w, C), uint8, uint16 or float.
        opacity: (h, w, 1) of the same type; (h, w, 0) where there is none.

    Returns:
        An array like ``colors``, which is returned as it is where nothing is hidden.
    """
    if not opacity.size:
        return colors
    hidden = opacity == 0
    if not hidden.any():
        return colors
    # No color in view is lost: an image of which nothing is seen becomes black.
    weights = opacity.astype(np.float32)
    filled = _spread(colors * weights, weights)
    if colors.dtype.kind == "u":
        filled = filled.round()
    return np.where(hidden, filled.astype(colors.dtype), colors)


def enlarged_opacity(opacity: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge (h, w, 1) to (scale h, scale w, 1) bicubically; (h, w, 0) stays empty."""
    if scale == 1 or not opacity.size:
        return opacity
    plane = opacity[..., 0]
    if plane.dtype != np.uint8:
        # Pillow resizes one channel of other types as float32 only.
        plane = plane.astype(np.float32)
    height, width = plane.shape
    size = (width * scale, height * scale)
    enlarged = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
    largest = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
    return enlarged.clip(0, largest).astype(opacity.dtype)[..., None]


def _spread(weighted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Divide sums of colors by their weights; where none is, take a coarser image's color."""
    height, width, _ = weights.shape
    means = weighted / np.maximum(weights, np.finfo(np.float32).tiny)
    known = weights > 0
    if known.all() or max(height, width) == 1:
        return means
    coarse = _spread(_halve(weighted), _halve(weights))
    nearby = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known, means, nearby)


def _halve(sums: np.ndarray) -> np.ndarray:
    """Sum each 2 x 2 pixels."""
    height, width, channels = sums.shape
    even = np.pad(sums, ((0, height % 2), (0, width % 2), (0, 0)))
    blocks = even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    return blocks.sum(axis=(1, 3))
