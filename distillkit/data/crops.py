"""Cutting crops out of decoded images and their low-quality partners."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distillkit.data.sources import BadImageError, Example
from distillkit.files.images import to_float


class CropBox(NamedTuple):
    """Where a crop lies in its image, in low-quality pixels, and how it was turned after it was cut."""

    top: int
    left: int
    height: int
    width: int
    turn: int = 0
    """0 to 7, one of the turns and mirrorings of a square."""

    def of(self, image: Tensor, unit: int = 1) -> Tensor:
        """The crop of an image (..., H, W) with ``unit`` pixels to a low-quality one."""
        part = image[
            ...,
            self.top * unit : (self.top + self.height) * unit,
            self.left * unit : (self.left + self.width) * unit,
        ]
        part = torch.rot90(part, self.turn % 4, (-2, -1))
        return part.flip(-1) if self.turn >= 4 else part


class Whole(NamedTuple):
    """What a crop was cut out of."""

    image: np.ndarray
    """(H, W, 3): the low-quality image of a paired source, else the clean one, trimmed to a multiple of the scale."""
    window: CropBox


def fit(example: Example, crop: int, scale: int) -> Example:
    """``example``, if a crop can be cut out of it.

    Raises:
        BadImageError: it is smaller than the crop, or its partner is not its size divided by ``scale``, rounded down.
    """
    height, width = example.gt.shape[:2]
    if example.lq is not None and (height // scale, width // scale) != example.lq.shape[:2]:
        low_height, low_width = example.lq.shape[:2]
        raise BadImageError(
            example.id,
            f"{width}x{height} is not {scale} times its low-quality image of {low_width}x{low_height}",
        )
    if min(height, width) < crop:
        raise BadImageError(
            example.id, f"{width}x{height} is smaller than the crop of {crop}x{crop}"
        )
    return example


def cut(example: Example, window: CropBox, unit: int) -> tuple[Tensor, Tensor | None]:
    """The clean crop (3, H, W) and its low-quality partner (3, H / unit, W / unit), in [-1, 1].

    ``window`` counts low-quality pixels, ``unit`` clean ones wide.
    """
    top, left, height, width, turn = window
    gt = example.gt[top * unit : (top + height) * unit, left * unit : (left + width) * unit]
    lq = None if example.lq is None else example.lq[top : top + height, left : left + width]
    return to_float(_turned(gt, turn)), None if lq is None else to_float(_turned(lq, turn))


def central_grid(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Corners (top, left) of the squares of an even grid that do not overlap, those nearest to the center of the image first."""
    tops, lefts = (
        [int((i + 0.5) * n / (n // side) - side / 2) for i in range(n // side)]
        for n in (height, width)
    )
    center = (height - side) / 2, (width - side) / 2
    corners = [(top, left) for top in tops for left in lefts]
    return sorted(
        corners, key=lambda corner: (corner[0] - center[0]) ** 2 + (corner[1] - center[1]) ** 2
    )


def _turned(array: np.ndarray, turn: int) -> np.ndarray:
    turned = np.rot90(array, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned
