"""Borders that make an image fit the network.

Pixels are mirrored with the edge itself repeated (OpenCV's BORDER_REFLECT).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Border(NamedTuple):
    """The rows and columns added on each side."""

    top: int
    bottom: int
    left: int
    right: int


NO_BORDER = Border(0, 0, 0, 0)

PUBLISHED_BORDERS = {(400, 600): Border(top=8, bottom=8, left=4, right=4)}
"""Borders of the published code, by height and width.

The photographs of LOL v1 and v2-real are padded to 416 x 608, although 400 rows would do.
"""


def choose_border(image: Tensor, size_multiple: int) -> Border:
    """Choose the border that brings an image to a multiple.

    A published border comes first; what is then missing is split between the two sides.

    Args:
        image: Images, shape (..., H, W).
        size_multiple: What both sides have to be multiples of.
    """
    height, width = image.shape[-2:]
    border = PUBLISHED_BORDERS.get((height, width), NO_BORDER)
    height += border.top + border.bottom
    width += border.left + border.right
    missing_rows = -height % size_multiple
    missing_columns = -width % size_multiple
    rows_above = missing_rows // 2
    columns_left = missing_columns // 2
    return Border(
        top=border.top + rows_above,
        bottom=border.bottom + missing_rows - rows_above,
        left=border.left + columns_left,
        right=border.right + missing_columns - columns_left,
    )


def pad(image: Tensor, border: Border) -> Tensor:
    """Add a border of any size to images (B, C, H, W); gradient flows."""
    if border == NO_BORDER:
        return image
    height, width = image.shape[-2:]
    rows = _mirrored_indices(height, border.top, border.bottom)
    columns = _mirrored_indices(width, border.left, border.right)
    padded = image[..., rows.to(image.device), :]
    return padded[..., columns.to(image.device)]


def crop(image: Tensor, border: Border) -> Tensor:
    """Cut the border off again: the inverse of :func:`pad`."""
    height, width = image.shape[-2:]
    rows = slice(border.top, height - border.bottom)
    columns = slice(border.left, width - border.right)
    return image[..., rows, columns]


def _mirrored_indices(size: int, before: int, after: int) -> Tensor:
    """List the indices ``... 1 0 | 0 1 ... n-1 | n-1 n-2 ...`` for n = size."""
    index = torch.arange(-before, size + after) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)
