"""Convert pictures of every supported type to arrays, and results back to that type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distillkit_runtime.errors import RestoreError
from distillkit_runtime.pictures import Source, as_picture, read_array

ConvertBack = Callable[[np.ndarray], Any]
"""Converts an array like that of :func:`as_array` to the type of the picture that was given."""
_VALUE_SLACK = 1e-3
"""How far a float array may be outside of [0, 1]."""


def as_array(image: Source | np.ndarray) -> tuple[np.ndarray, ConvertBack]:
    """Convert a picture to an array.

    Args:
        image: A PIL image, a file or its content; or an array (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4) of uint8, uint16 or float in [0, 1].

    Returns:
        An array (h, w, C), uint8, uint16 or float32 in [0, 1], where C is 1 (gray), 2 (gray and
        opacity), 3 (RGB) or 4 (RGB and opacity); and a function that converts such an array back to
        the type of ``image``, for a file to a PIL image.

    Raises:
        RestoreError: It is no such picture.
    """
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if isinstance(image, Source):
        return read_array(image), as_picture
    kind = type(image).__name__
    raise RestoreError(f"expected a PIL image, an array or a file, got a {kind}")


def _from_numpy(image: np.ndarray) -> tuple[np.ndarray, ConvertBack]:
    is_plane = image.ndim == 2
    is_float = image.dtype.kind == "f"
    array = image[..., None] if is_plane else image
    known_type = is_float or image.dtype in (np.uint8, np.uint16)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not known_type:
        raise RestoreError(
            "expected an array (h, w) or (h, w, C), C being 1, 3 or 4, of uint8, uint16 or float "
            f"in [0, 1]; got {image.dtype} {image.shape}"
        )
    if not array.size:
        raise RestoreError(f"the image has no pixels: {array.shape[1]} x {array.shape[0]}")
    if is_float:
        array = array.astype(np.float32)
        _check_values(array)

    def back(restored: np.ndarray) -> np.ndarray:
        if is_plane:
            restored = restored[..., 0]
        return restored.astype(image.dtype, copy=False)

    return array, back


def _check_values(array: np.ndarray) -> None:
    low = float(array.min())
    high = float(array.max())
    if not np.isfinite([low, high]).all():
        raise RestoreError("the image has values that are not finite")
    if low < -_VALUE_SLACK or high > 1 + _VALUE_SLACK:
        raise RestoreError(
            f"the image has values from {low:g} to {high:g}; float images are in [0, 1]"
        )
