"""Convert images of every supported type to arrays, and results back to that type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit.errors import DataError
from distillkit.files.images import ImageSource, decode_with_alpha, to_float, to_pil

OneImage = ImageSource | np.ndarray | Tensor
ConvertBack = Callable[[np.ndarray], Any]
"""Converts an array like that of :func:`as_array` to the type of the image that was given."""

_VALUE_SLACK = 1e-3
"""How far a float image may be outside of [0, 1]."""
_VALUES = "C being 1, 3 or 4, of uint8, uint16 or float in [0, 1]"


def as_array(image: OneImage) -> tuple[np.ndarray, ConvertBack]:
    """Convert an image to an array.

    Args:
        image: A PIL image, a file or its content; an array (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4); or a tensor (1, h, w), (3, h, w) or (4, h, w). Arrays and tensors are uint8,
            uint16 or float in [0, 1].

    Returns:
        An array (h, w, C), uint8, uint16 or float32 in [0, 1], where C is 1 (gray), 2 (gray and
        opacity), 3 (RGB) or 4 (RGB and opacity); and a function that converts such an array back to
        the type of ``image``, for a file to a PIL image.

    Raises:
        DataError: It is no such image, or a float image with values that are not finite or
            clearly outside of [0, 1].
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if isinstance(image, str | Path | bytes | Image.Image):
        return _decode(image), to_pil
    kind = type(image).__name__
    raise DataError(f"expected a PIL image, an array, a tensor or a file, got a {kind}")


def read_picture(source: ImageSource) -> Image.Image:
    """Read an image as a viewer shows it: upright, with the mode that its restored image has.

    Args:
        source: A path, the content of a file, or a PIL image.

    Returns:
        A decoded image of mode L, LA, RGB, RGBA or, for 16-bit gray, I;16.

    Raises:
        DataError: As :func:`~distillkit.read_image`.
    """
    return to_pil(_decode(source))


def to_unit(array: np.ndarray) -> Tensor:
    """(h, w, C), uint8, uint16 or float in [0, 1] -> (1, C, h, w) float32 in [-1, 1]."""
    return to_float(array)[None]


def quantized(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """Invert :func:`to_unit`: clamp, and round to nearest if ``dtype`` is an integer."""
    values = image[0].clamp(-1, 1).add_(1).div_(2)
    if dtype.kind == "u":
        values.mul_(np.iinfo(dtype).max).round_()
    return values.permute(1, 2, 0).numpy().astype(dtype)


def _decode(source: ImageSource) -> np.ndarray:
    """Decode to (h, w, C): gray or RGB, and opacity if there is transparency."""
    pixels = decode_with_alpha(source)
    channels = [pixels.colors[..., :1] if pixels.gray else pixels.colors]
    if pixels.alpha is not None:
        channels.append(pixels.alpha[..., None])
    return np.concatenate(channels, axis=2)


def _from_tensor(image: Tensor) -> tuple[np.ndarray, ConvertBack]:
    is_float = image.is_floating_point()
    known_type = is_float or image.dtype in (torch.uint8, torch.uint16)
    if image.dim() != 3 or image.shape[0] not in (1, 3, 4) or not known_type:
        raise DataError(
            f"expected a tensor (C, h, w) or (B, C, h, w), {_VALUES}; "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    values = image.detach().cpu()
    if is_float:
        values = values.float()
    array = values.numpy().transpose(1, 2, 0)
    _check_values(array)

    def back(restored: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(restored.transpose(2, 0, 1))).to(image)

    return array, back


def _from_numpy(image: np.ndarray) -> tuple[np.ndarray, ConvertBack]:
    is_plane = image.ndim == 2
    is_float = image.dtype.kind == "f"
    array = image[..., None] if is_plane else image
    known_type = is_float or image.dtype in (np.uint8, np.uint16)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not known_type:
        raise DataError(
            f"expected an array (h, w) or (h, w, C), {_VALUES}; got {image.dtype} {image.shape}"
        )
    if is_float:
        array = array.astype(np.float32, copy=False)
    _check_values(array)

    def back(restored: np.ndarray) -> np.ndarray:
        restored = restored[..., 0] if is_plane else restored
        return restored.astype(image.dtype, copy=False)

    return array, back


def _check_values(array: np.ndarray) -> None:
    if not array.size:
        raise DataError(f"the image has no pixels: {array.shape[1]} x {array.shape[0]}")
    if array.dtype.kind != "f":
        return
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise DataError("the image has values that are not finite")
    if low < -_VALUE_SLACK or high > 1 + _VALUE_SLACK:
        raise DataError(
            f"the image has values from {low:g} to {high:g}; float images are in [0, 1]"
        )
