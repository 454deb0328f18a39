"""Restore pictures of any size with an exported student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distillkit_runtime.arrays import as_array
from distillkit_runtime.colors import as_float, as_stored, fix_colors
from distillkit_runtime.errors import RestoreError
from distillkit_runtime.opacity import enlarge_opacity, fill_hidden_colors
from distillkit_runtime.pictures import Source
from distillkit_runtime.student import Student
from distillkit_runtime.tiles import Box, default_tile, plan_tiles, restored_bands
from distillkit_runtime.tradeoffs import Tradeoff

SMALLEST_TILE = 16
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in a gray result."""


class Restorer:
    """Restores pictures with a student that ``distillkit export --onnx`` wrote.

    >>> restorer = Restorer("student.onnx")
    >>> restored = restorer(Image.open("photo.jpg"), tradeoff=0.3)

    The results are those of distillkit's own ``Restorer``, to one gray level. A picture of more
    than ``tile`` x ``tile`` pixels is restored in overlapping tiles; beside the picture and the
    result, one row of them is held.

    Args:
        model: The ONNX file.
        tile: Side of a square tile in input pixels; default 768 pixels of the result.

    Raises:
        RestoreError: No student there, or too small a tile.
    """

    def __init__(self, model: Path | str, tile: int | None = None) -> None:
        self.student = Student(model)
        if tile is None:
            tile = default_tile(self.scale, self.student.size_multiple)
        elif tile < SMALLEST_TILE:
            raise RestoreError(f"a tile of {tile} pixels; it has to have {SMALLEST_TILE} or more")
        self.tile = tile

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
            image: A PIL image, a file or its content; or an array (h, w), (h, w, 1), (h, w, 3) or
                (h, w, 4) of uint8, uint16 or float in [0, 1].
            tradeoff: 0 is most realistic (default), 1 most faithful; or a map, one for each pixel:
                an array (h, w) of numbers, or a gray PIL image, black for 0 and white for 1.

        Returns:
            The restored picture, ``scale`` times as large: an array for an array, else a PIL image.

        Raises:
            RestoreError: Not a picture, a tradeoff that the student does not have, or a graph that
                fails.
        """
        array, back = as_array(image)
        colors = 3 if array.shape[2] >= 3 else 1
        opacity = array[..., colors:]
        lq = fill_hidden_colors(array[..., :colors], opacity)
        height, width, _ = lq.shape
        restored = self._restore(lq, self.student.resolve(tradeoff, height, width))
        fix_colors(restored, lq, self.student.color_fix)
        if opacity.size:
            enlarged = enlarge_opacity(opacity, self.scale)
            restored = np.concatenate([restored, enlarged], axis=2)
        return back(restored)

    def _restore(self, lq: np.ndarray, tradeoff: Tradeoff) -> np.ndarray:
        """Restore (h, w, C), where C is 1 or 3, in tiles."""
        height, width, channels = lq.shape

        def restore_box(box: Box) -> np.ndarray:
            top, bottom, left, right = box
            tile = as_float(lq[top:bottom, left:right])
            # The network takes gray as three equal planes.
            planes = np.broadcast_to(tile, (*tile.shape[:2], 3)).transpose(2, 0, 1)
            if isinstance(tradeoff, np.ndarray):
                return self.student.restore(planes, tradeoff[top:bottom, left:right])
            return self.student.restore(planes, tradeoff)

        restored = np.empty((height * self.scale, width * self.scale, channels), lq.dtype)
        grid = plan_tiles(height, width, self.tile, self.student.size_multiple)
        for top, band in restored_bands(restore_box, grid, self.scale):
            rows = band.transpose(1, 2, 0)
            if channels == 1:
                rows = (rows @ LUMA)[..., None]
            bottom = top + len(rows)
            restored[top:bottom] = as_stored(rows, lq.dtype)
        return restored
