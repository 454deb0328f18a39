"""Tradeoffs that differ from pixel to pixel.

A map is exact where the adapter is a branch of convolutions
(:mod:`~distillkit.adapters.mapped`): one pass, twice the convolutions. Other students restore at a
few tradeoffs, and each pixel is interpolated linearly between the two nearest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from distillkit.adapters.mapped import resize_map
from distillkit.errors import DistillkitError
from distillkit.tradeoff import FAITHFUL, REALISTIC

NODES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tradeoffs to interpolate between."""
ASPECT_TOLERANCE = 0.02
"""Relative difference that the proportions of a map and of its image may have."""


def is_map(tradeoff: Any) -> bool:
    """Tell a map from a number, or from several numbers."""
    if isinstance(tradeoff, Image.Image):
        return True
    return isinstance(tradeoff, np.ndarray | Tensor) and tradeoff.ndim >= 2


def read_map(values: Any, height: int, width: int) -> Tensor:
    """Bring a map to the size of the image that it is for.

    Args:
        values: (h, w) of numbers from 0 (most realistic) to 1 (most faithful), an array or a
            tensor; or a gray PIL image, black for 0 and white for 1. Of the image's proportions.
        height: The height of the image.
        width: The width of the image.

    Returns:
        (1, 1, height, width), float32.

    Raises:
        DistillkitError: Another shape or other proportions, or numbers outside [0, 1].
    """
    if isinstance(values, Image.Image):
        values = _gray_levels(values)
    tradeoffs = torch.as_tensor(values)
    if tradeoffs.ndim != 2 or not tradeoffs.numel():
        shape = tuple(tradeoffs.shape)
        raise DistillkitError(f"a tradeoff map has the shape (h, w), not {shape}")
    tradeoffs = tradeoffs.float()
    # A comparison with nan is false, so nan is refused here as well.
    if not bool(((tradeoffs >= REALISTIC) & (tradeoffs <= FAITHFUL)).all()):
        low, high = tradeoffs.min(), tradeoffs.max()
        raise DistillkitError(
            f"a tradeoff map holds numbers from 0 to 1; this one, {low:g} to {high:g}. "
            "Divide the levels of an 8-bit mask by 255"
        )
    rows, columns = tradeoffs.shape
    if abs(rows * width / (columns * height) - 1) > ASPECT_TOLERANCE:
        raise DistillkitError(
            f"a tradeoff map of {columns} x {rows} pixels does not fit an image of "
            f"{width} x {height}: their proportions differ"
        )
    return resize_map(tradeoffs[None, None], height, width)


def pad_map(tradeoff_map: Tensor, image: Tensor) -> Tensor:
    """Repeat the last row and column of a map (1, 1, h, w) to the size of a padded image."""
    bottom = image.shape[-2] - tradeoff_map.shape[-2]
    right = image.shape[-1] - tradeoff_map.shape[-1]
    return F.pad(tradeoff_map, (0, right, 0, bottom), mode="replicate")


def blend_nodes(
    restore: Callable[[Sequence[float]], Sequence[Tensor]], tradeoff_map: Tensor, scale: int
) -> Tensor:
    """Restore at nodes, and interpolate each pixel linearly between the two nearest.

    Nodes that no pixel is near are left out.

    Args:
        restore: Restores at several tradeoffs, to images (B, 3, scale h, scale w).
        tradeoff_map: (B, 1, h, w).
        scale: Output size divided by input size.
    """
    height, width = tradeoff_map.shape[-2:]
    tradeoffs = resize_map(tradeoff_map, scale * height, scale * width)
    weights = {}
    spacing = NODES[1] - NODES[0]
    for node in NODES:
        weight = (1 - (tradeoffs - node).abs() / spacing).clamp(min=0)
        if weight.any():
            weights[node] = weight
    images = restore(list(weights))
    total = torch.zeros_like(images[0])
    for weight, image in zip(weights.values(), images, strict=True):
        total += weight * image
    return total


def _is_opaque(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return True
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Turn a gray image of 1, 8 or 16 bits into numbers from 0 to 1.

    EXIF orientation is applied, as to the image that the map is for.
    """
    image = ImageOps.exif_transpose(image)
    # What a transparent layer shows depends on what is below it, which is not in the file.
    if not _is_opaque(image):
        raise DistillkitError(
            "a tradeoff map has no transparency; fill its background, black for 0 (most realistic) "
            "to white for 1 (most faithful)"
        )
    if image.mode.startswith("I"):
        return np.asarray(image, dtype=np.float32) / 65535
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L"), dtype=np.float32) / 255
