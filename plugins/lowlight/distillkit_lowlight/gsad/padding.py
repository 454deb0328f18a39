"""Borders that make an image fit the network: edge pixels mirrored with the edge itself repeated (cv2's BORDER_REFLECT)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Border(NamedTuple):
    """Rows and columns added on each side."""

    top: int
    bottom: int
    left: int
    right: int


PUBLISHED = {(400, 600): Border(8, 8, 4, 4)}
"""The photographs of LOL v1 and v2-real are padded to 416 x 608, although 400 rows would do."""


def border(height: int, width: int, multiple: int) -> Border:
    """The published border where there is one, and what is then missing to the next multiple, half of it on either side."""
    top, bottom, left, right = PUBLISHED.get((height, width), Border(0, 0, 0, 0))
    rows, columns = -(height + top + bottom) % multiple, -(width + left + right) % multiple
    return Border(
        top + rows // 2,
        bottom + rows - rows // 2,
        left + columns // 2,
        right + columns - columns // 2,
    )


def pad(image: Tensor, by: Border) -> Tensor:
    """(B, C, H, W) with ``by`` added; any amount, gradient flows."""
    if not any(by):
        return image
    rows = _mirrored(image.shape[-2], by.top, by.bottom).to(image.device)
    columns = _mirrored(image.shape[-1], by.left, by.right).to(image.device)
    return image[..., rows, :][..., columns]


def crop(image: Tensor, by: Border) -> Tensor:
    """The inverse of :func:`pad`."""
    height, width = image.shape[-2:]
    return image[..., by.top : height - by.bottom, by.left : width - by.right]


def _mirrored(n: int, before: int, after: int) -> Tensor:
    """Indices ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..."""
    index = torch.arange(-before, n + after) % (2 * n)
    return torch.where(index < n, index, 2 * n - 1 - index)
