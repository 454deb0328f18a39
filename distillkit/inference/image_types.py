"""The kinds of images that people hand in, brought to one form and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit.errors import DataError
from distillkit.files.images import ImageSource, decode_apart

OneImage = str | Path | bytes | Image.Image | np.ndarray | Tensor
Back = Callable[[np.ndarray], Any]
"""An array (H, W, C) of the form of :func:`as_array` -> an image of the kind that was handed in."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SLACK = 1e-3
_VALUES = "C being 1, 3 or 4, of uint8, uint16 or float in [0, 1]"


def as_array(image: OneImage) -> tuple[np.ndarray, Back]:
    """An image as an array (h, w, C), uint8, uint16 or float32 in [0, 1], and the way back.

    C is 1 (gray), 2 (gray, opacity), 3 (RGB) or 4 (RGB, opacity).

    Args:
        image: a PIL image, a file or its content (these come back as PIL images); an array (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4); a tensor (1, h, w), (3, h, w) or (4, h, w). Arrays and tensors are uint8, uint16 or float in [0, 1].

    Raises:
        DataError: not such an image; a float image that is not finite or clearly outside of [0, 1].
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if isinstance(image, str | Path | bytes | Image.Image):
        return _decoded(image), _to_pil
    raise DataError(
        f"expected a PIL image, an array, a tensor or a file, got a {type(image).__name__}"
    )


def read_picture(source: ImageSource) -> Image.Image:
    """Read an image as a viewer shows it: upright, with the mode that its restored image has.

    Args:
        source: A path, the content of a file, or a PIL image.

    Returns:
        A decoded image of mode L, LA, RGB, RGBA or, for 16-bit gray, I;16.

    Raises:
        DataError: As :func:`~distillkit.read_image`.
    """
    return _to_pil(_decoded(source))


def to_unit(array: np.ndarray) -> Tensor:
    """(h, w, C), uint8, uint16 or float in [0, 1] -> (1, C, h, w) float32 in [-1, 1]."""
    half = np.float32(np.iinfo(array.dtype).max / 2 if array.dtype.kind == "u" else 0.5)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), np.float32) / half - 1)[
        None
    ]


def quantized(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`to_unit`, clamped, and rounded to nearest where ``dtype`` is an integer."""
    values = image[0].clamp(-1, 1).add_(1).div_(2)
    if dtype.kind == "u":
        values.mul_(np.iinfo(dtype).max).round_()
    return values.permute(1, 2, 0).numpy().astype(dtype)


def luma(image: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 1, h, w)."""
    return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def enlarged_opacity(opacity: np.ndarray, scale: int) -> np.ndarray:
    """(h, w, 1) -> (scale h, scale w, 1), bicubic; (h, w, 0) stays empty."""
    if scale == 1 or not opacity.size:
        return opacity
    picture = Image.fromarray(
        opacity[..., 0] if opacity.dtype == np.uint8 else opacity[..., 0].astype(np.float32)
    )
    enlarged = np.asarray(
        picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    )
    top = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
    return enlarged.clip(0, top).astype(opacity.dtype)[..., None]


def _decoded(source: ImageSource) -> np.ndarray:
    """Decode to (h, w, C): gray or RGB, and opacity if there is transparency."""
    pixels = decode_apart(source)
    channels = [pixels.colors[..., :1] if pixels.gray else pixels.colors]
    if pixels.alpha is not None:
        channels.append(pixels.alpha[..., None])
    return np.concatenate(channels, axis=2)


def _from_tensor(image: Tensor) -> tuple[np.ndarray, Back]:
    known = image.is_floating_point() or image.dtype in (torch.uint8, torch.uint16)
    if image.dim() != 3 or image.shape[0] not in (1, 3, 4) or not known:
        raise DataError(
            f"expected a tensor (C, h, w) or (B, C, h, w), {_VALUES}; got {image.dtype} {tuple(image.shape)}"
        )
    values = image.detach().cpu()
    array = (values.float() if values.is_floating_point() else values).numpy().transpose(1, 2, 0)
    return _checked(array), lambda a: torch.from_numpy(
        np.ascontiguousarray(a.transpose(2, 0, 1))
    ).to(image)


def _from_numpy(image: np.ndarray) -> tuple[np.ndarray, Back]:
    array = image[..., None] if image.ndim == 2 else image
    known = array.dtype in (np.uint8, np.uint16) or array.dtype.kind == "f"
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not known:
        raise DataError(
            f"expected an array (h, w) or (h, w, C), {_VALUES}; got {image.dtype} {image.shape}"
        )
    array = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
    return _checked(array), lambda a: (a[..., 0] if image.ndim == 2 else a).astype(
        image.dtype, copy=False
    )


def _to_pil(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _checked(array: np.ndarray) -> np.ndarray:
    if not array.size:
        raise DataError(f"the image has no pixels: {array.shape[1]} x {array.shape[0]}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            raise DataError("the image has values that are not finite")
        if low < -_SLACK or high > 1 + _SLACK:
            raise DataError(
                f"the image has values from {low:g} to {high:g}; float images are in [0, 1]"
            )
    return array
