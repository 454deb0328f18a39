"""Restore pictures of any size with an exported student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distillkit_runtime.colors import as_float, as_stored, fix_colors
from distillkit_runtime.errors import RestoreError
from distillkit_runtime.opacity import enlarge_opacity, fill_hidden_colors
from distillkit_runtime.pictures import Source, as_picture, read_picture
from distillkit_runtime.student import Student
from distillkit_runtime.tiles import Box, default_tile, plan_tiles, restored_bands
from distillkit_runtime.tradeoffs import Tradeoff

SMALLEST_TILE = 16
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in a gray result."""
_VALUE_SLACK = 1e-3
"""How far a float array may be outside of [0, 1]."""


class Restorer:
    """Restores pictures with a student that ``distillkit export --onnx`` wrote.

    >>> restorer = Restorer("student.onnx")
    >>> restored = restorer(Image.open("photo.jpg"), tradeoff=0.3)

    The results are those of distillkit's own ``Restorer``, to one gray level. A picture of more
    than ``tile`` x ``tile`` pixels is restored in overlapping tiles; beside the picture and the
    result, one row of them is held.

    Args:
        model: the ONNX file.
        tile: side of a square tile in input pixels; default 768 pixels of the result.

    Raises:
        RestoreError: no student there, or too small a tile.
    """

    def __init__(self, model: Path | str, tile: int | None = None) -> None:
        self.student = Student(model)
        self.tile = tile or default_tile(self.scale, self.student.size_multiple)
        if self.tile < SMALLEST_TILE:
            raise RestoreError(f"a tile of {tile} pixels; it has to have {SMALLEST_TILE} or more")

    @property
    def scale(self) -> int:
        """Output size divided by input size."""
        return self.student.scale

    def __call__(self, image: Source | np.ndarray, tradeoff: Any = None) -> Any:
        """Restore a picture.

        Gray pictures give gray ones (the luma of the result), 16-bit ones 16 bits; colors are
        converted from the embedded profile to sRGB; opacity is kept, enlarged bicubically; EXIF
        orientation is applied.

        Args:
            image: a PIL image, a file or its content; or an array (h, w), (h, w, 1), (h, w, 3) or
                (h, w, 4) of uint8, uint16 or float in [0, 1].
            tradeoff: 0 is most realistic (default), 1 most faithful; or a map, one for each pixel:
                an array (h, w) of numbers, or a gray PIL image, black for 0 and white for 1.

        Returns:
            The restored picture, ``scale`` times as large: an array for an array, else a PIL image.

        Raises:
            RestoreError: not a picture, a tradeoff that the student does not have, or a graph that
                fails.
        """
        array, back = _as_array(image)
        # 1 or 3 channels of color, and one of opacity where their number is even
        colors = array.shape[2] - (array.shape[2] + 1) % 2
        opacity = array[..., colors:]
        lq = fill_hidden_colors(array[..., :colors], opacity)
        height, width, _ = lq.shape
        restored = self._restore(lq, self.student.resolve(tradeoff, height, width))
        fix_colors(restored, lq, self.student.color_fix)
        if opacity.size:
            restored = np.concatenate([restored, enlarge_opacity(opacity, self.scale)], axis=2)
        return back(restored)

    def _restore(self, lq: np.ndarray, tradeoff: Tradeoff) -> np.ndarray:
        """Restore (h, w, C), where C is 1 or 3, in tiles."""
        height, width, channels = lq.shape

        def restore_box(box: Box) -> np.ndarray:
            top, bottom, left, right = box
            pixels = as_float(lq[top:bottom, left:right]).transpose(2, 0, 1)
            of_box = tradeoff
            if isinstance(of_box, np.ndarray):
                of_box = of_box[top:bottom, left:right]
            return self.student.restore(np.broadcast_to(pixels, (3, *pixels.shape[1:])), of_box)

        restored = np.empty((height * self.scale, width * self.scale, channels), lq.dtype)
        grid = plan_tiles(height, width, self.tile, self.student.size_multiple)
        for top, band in restored_bands(restore_box, grid, self.scale):
            rows = band.transpose(1, 2, 0)
            if channels == 1:
                rows = (rows @ LUMA)[..., None]
            restored[top : top + len(rows)] = as_stored(rows, lq.dtype)
        return restored


def _as_array(image: Source | np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Bring a picture to (h, w, C) of 1 to 4 channels; return the way back as well."""
    if not isinstance(image, np.ndarray):
        if not isinstance(image, Source):
            kind = type(image).__name__
            raise RestoreError(f"expected a PIL image, an array or a file, got a {kind}")
        array = np.asarray(read_picture(image))
        return array.reshape(*array.shape[:2], -1), as_picture
    array = image[..., None] if image.ndim == 2 else image
    known_type = image.dtype.kind == "f" or image.dtype in (np.uint8, np.uint16)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size or not known_type:
        raise RestoreError(
            "expected an array (h, w) or (h, w, C), C being 1, 3 or 4, of uint8, uint16 or float "
            f"in [0, 1]; got {image.dtype} {image.shape}"
        )
    if image.dtype.kind == "f":
        array = _checked_floats(array)

    def back(restored: np.ndarray) -> np.ndarray:
        height, width, _ = restored.shape
        return restored.reshape(height, width, *image.shape[2:]).astype(image.dtype, copy=False)

    return array, back


def _checked_floats(array: np.ndarray) -> np.ndarray:
    low, high = array.min(), array.max()
    # A comparison with nan is false, so nan is refused here as well.
    if not (low >= -_VALUE_SLACK and high <= 1 + _VALUE_SLACK):
        raise RestoreError(
            f"the array has values from {low:g} to {high:g}; float pictures are in [0, 1]"
        )
    return array.astype(np.float32)
