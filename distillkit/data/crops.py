"""Cut crops out of decoded images and their low-quality partners."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.data.sources import BadImageError, Example, Sizes
from distillkit.files.images import to_float


class CropBox(NamedTuple):
    """Place of a crop in its image, in low-quality pixels, and its turn.

    The crop is turned after cutting.
    """

    top: int
    left: int
    height: int
    width: int
    turn: int = 0
    """0 to 7: quarter turns (``turn % 4``), then a mirroring from 4 on."""

    def cut(self, image: Tensor, scale: int = 1) -> Tensor:
        """Cut the crop out of a tensor.

        Args:
            image: (..., H, W).
            scale: Pixels of the image per low-quality pixel, along a side.
        """
        rows, columns = self._slices(scale)
        crop = image[..., rows, columns]
        crop = torch.rot90(crop, self.turn % 4, (-2, -1))
        if self.turn >= 4:
            crop = crop.flip(-1)
        return crop

    def cut_array(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        """Cut the crop out of an image as stored.

        Args:
            image: (H, W, 3).
            scale: Pixels of the image per low-quality pixel, along a side.
        """
        rows, columns = self._slices(scale)
        crop = np.rot90(image[rows, columns], self.turn % 4)
        if self.turn >= 4:
            crop = crop[:, ::-1]
        return crop

    def _slices(self, scale: int) -> tuple[slice, slice]:
        bottom = self.top + self.height
        right = self.left + self.width
        rows = slice(self.top * scale, bottom * scale)
        columns = slice(self.left * scale, right * scale)
        return rows, columns


class FullImage(NamedTuple):
    """The image that a crop was cut from."""

    pixels: np.ndarray
    """(H, W, 3). The low-quality image of a pair; else the clean image, trimmed to the scale."""
    box: CropBox
    lq: Tensor | None = None
    """The low-quality image, (1, 3, h, w) in [-1, 1] on the device; None before the batch is
    prepared."""
    key: str = ""
    """A hash of the image, its caption and the draws that degraded it; empty before the batch is
    prepared."""


def check_sizes(
    sizes: Sizes,
    crop: int,
    scale: int,
) -> None:
    """Raise an error if no crop can be cut out of an image and its partner.

    Args:
        sizes: The sizes of the two.
        crop: Side of the crop of the clean image, pixels.
        scale: Size of the clean image divided by that of the low-quality one.

    Raises:
        BadImageError: The image is smaller than the crop, or the size of its partner is not the
            image's size divided by ``scale``, rounded down.
    """
    if sizes.gt is None:
        _check_input_size(sizes, crop // scale)
        return
    height, width = sizes.gt
    if sizes.lq is not None:
        low_height, low_width = sizes.lq
        if (height // scale, width // scale) != (low_height, low_width):
            raise BadImageError(
                sizes.id,
                f"{width}x{height} is not {scale} times its low-quality image of "
                f"{low_width}x{low_height}",
            )
    if min(height, width) < crop:
        reason = f"{width}x{height} is smaller than the crop of {crop}x{crop}"
        raise BadImageError(sizes.id, reason)


def _check_input_size(sizes: Sizes, side: int) -> None:
    """Raise an error if a low-quality image without partner is smaller than its crop."""
    assert sizes.lq is not None
    height, width = sizes.lq
    if min(height, width) < side:
        reason = f"{width}x{height} is smaller than the low-quality crop of {side}x{side}"
        raise BadImageError(sizes.id, reason)


def cut_pair(
    example: Example,
    box: CropBox,
    scale: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Cut the clean crop and its low-quality partner, in [-1, 1].

    Args:
        example: The decoded image.
        box: The place of the crop.
        scale: Pixels of the clean image per pixel that ``box`` counts.

    Returns:
        (3, H, W) and (3, H / scale, W / scale); None for the one that the source lacks.
    """
    gt = None
    lq = None
    if example.gt is not None:
        gt = to_float(box.cut_array(example.gt, scale))
    if example.lq is not None:
        lq = to_float(box.cut_array(example.lq))
    return gt, lq


def shrink_crop(crop: Tensor, side: int) -> Tensor:
    """Shrink a square crop by antialiased cubic interpolation.

    Args:
        crop: (C, S, S) in [-1, 1].
        side: Pixels, at most S.

    Returns:
        (C, side, side) in [-1, 1].
    """
    if crop.shape[-1] == side:
        return crop
    size = (side, side)
    return F.interpolate(crop[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


def draw_side(
    side: int,
    zoom_out: float,
    longest: int,
    generator: torch.Generator,
) -> int:
    """Draw the side of a crop that is shrunk to ``side``.

    Args:
        side: The side after shrinking, pixels.
        zoom_out: The largest side, divided by ``side``.
        longest: A side that is not exceeded, because the image is no larger.
        generator: A CPU generator; not used where nothing is shrunk.
    """
    largest = min(int(side * zoom_out), longest)
    if largest <= side:
        return side
    return side + _draw(largest - side + 1, generator)


def draw_box(
    height: int,
    width: int,
    side: int,
    *,
    augment: bool,
    generator: torch.Generator,
) -> CropBox:
    """Draw the place of a square crop, and with ``augment`` its turn.

    Args:
        height: The height of the image.
        width: The width of the image.
        side: The side of the crop, in the same pixels.
        augment: Whether crops are turned and mirrored.
        generator: A CPU generator.
    """
    # The order of the draws is part of what a seed means.
    top = _draw(height - side + 1, generator)
    left = _draw(width - side + 1, generator)
    turn = 0
    if augment:
        turn = _draw(8, generator)
    return CropBox(top, left, side, side, turn)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def central_grid(
    height: int,
    width: int,
    side: int,
) -> list[tuple[int, int]]:
    """List the corners of an even grid of squares, central squares first.

    Args:
        height: The height of the image.
        width: The width of the image.
        side: The side of the squares, which do not overlap.

    Returns:
        (top, left) of each square.
    """
    center_top = (height - side) / 2
    center_left = (width - side) / 2

    def squared_distance(corner: tuple[int, int]) -> float:
        top, left = corner
        return (top - center_top) ** 2 + (left - center_left) ** 2

    corners = product(_even_starts(height, side), _even_starts(width, side))
    return sorted(corners, key=squared_distance)


def _even_starts(length: int, side: int) -> list[int]:
    """Spread as many pieces of ``side`` as fit evenly over ``length``."""
    count = length // side
    starts = []
    for number in range(count):
        center = (number + 0.5) * length / count
        starts.append(int(center - side / 2))
    return starts
