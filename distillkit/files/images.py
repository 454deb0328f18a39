"""Image files as a viewer shows them, in and out."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from distillkit.errors import DataError
from distillkit.files.atomic import atomic_file

T = TypeVar("T")
ImageSource = str | Path | bytes | Image.Image
"""A file, its content, or an opened image."""


class Pixels(NamedTuple):
    """An image as stored, upright."""

    colors: np.ndarray
    """(H, W, 3), uint8 or (for 16-bit gray) uint16."""
    alpha: np.ndarray | None
    """Opacity (H, W) uint8, where there is transparency."""
    gray: bool
    """Whether the file holds one channel of gray; ``colors`` repeats it."""


_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {
        "format": "PNG",
        "compress_level": 4,
    },  # of photographs, 0.4 times the time of level 6 for 3 % more bytes
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF", "compression": "tiff_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_deflate"},
    ".bmp": {"format": "BMP"},
}
_WITHOUT_ALPHA = (".jpg", ".jpeg", ".bmp")


def read_image(source: ImageSource, name: str | None = None) -> Tensor:
    """An image as a viewer shows it, (3, H, W) float32 in [-1, 1].

    The content decides the format, not the suffix; of an animation the first frame is read. EXIF orientation is applied. Gray and
    palette images become RGB, transparency is laid on white, CMYK is converted without a profile; ICC profiles are ignored.
    16-bit gray keeps its precision (65535 -> 1); 16-bit RGB is read at 8 bits.

    Args:
        source: path, bytes or PIL image. name: what errors call it; default: its path.

    Raises:
        DataError: missing, empty, truncated or damaged, no image, of a pixel format without a defined white (32-bit), or so large
            (about 179 million pixels) that it is likely to be an attack.
    """
    return to_float(decode(source, name))


def read_image_alpha(source: ImageSource, name: str | None = None) -> tuple[Tensor, Tensor | None]:
    """As :func:`read_image`, but with transparency apart: colors (3, H, W), and opacity (1, H, W) in [0, 1] or None."""
    colors, alpha, _ = decode_apart(source, name)
    return to_float(colors), None if alpha is None else torch.from_numpy(alpha / np.float32(255))[
        None
    ]


def decode(source: ImageSource, name: str | None = None) -> np.ndarray:
    """What :func:`read_image` reads, as stored: (H, W, 3), uint8 or (for 16-bit gray) uint16."""
    colors, alpha, _ = decode_apart(source, name)
    if alpha is None:
        return colors
    opacity = alpha[..., None].astype(np.uint16)
    return ((colors * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def to_float(array: np.ndarray) -> Tensor:
    """(H, W, C), uint8, uint16 or float in [0, 1] -> (C, H, W) float32 in [-1, 1]."""
    largest = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    values = np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(values / np.float32(largest / 2) - 1)


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] -> uint8 of the same shape, as an 8-bit file holds it: clamped, (x + 1) 127.5 rounded to nearest."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(array: np.ndarray) -> Image.Image:
    """Wrap an array as a PIL image of mode L, LA, RGB, RGBA or I;16.

    Args:
        array: (H, W, C), with 1 to 4 channels of uint8, or one of uint16.
    """
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def write_image(image: Tensor, path: str | Path, alpha: Tensor | None = None) -> None:
    """Write (3, H, W) in [-1, 1] as 8 bits in the format of the suffix, and ``alpha`` (1, H, W) in [0, 1] with it.

    PNG, WebP and TIFF are lossless, JPEG has quality 95 without chroma subsampling. The file appears under its name only when it is
    complete.

    Raises:
        DataError: an unknown suffix, alpha in a format without it, values that are not finite, or a file that cannot be written.
    """
    if not bool(torch.isfinite(image).all()):
        raise DataError(f"{path} - not written: the image has values that are not finite")
    picture = to_pil(_to_stored(image))
    if alpha is not None:
        picture.putalpha(to_pil(_to_stored(alpha * 2 - 1)))
    write_picture(picture, path)


def write_picture(picture: Image.Image, path: str | Path) -> None:
    """As :func:`write_image`, of a PIL image with its mode and depth."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SAVE_OPTIONS:
        raise DataError(
            f"{path} - cannot write {suffix or 'a file without suffix'}; use one of {', '.join(_SAVE_OPTIONS)}"
        )
    if picture.mode in ("LA", "RGBA") and suffix in _WITHOUT_ALPHA:
        raise DataError(f"{path} - {suffix} has no transparency; use .png, .webp or .tif")
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            picture.save(file, **_SAVE_OPTIONS[suffix])
    except ValueError as error:
        raise DataError(f"{path} - cannot be written: {error}") from error


def decode_apart(source: ImageSource, name: str | None = None) -> Pixels:
    """What :func:`read_image_alpha` reads, as stored."""
    return _look(source, name, _pixels)


def picture_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """Width and height as the header has them, before EXIF orientation; no pixel is decoded.

    Raises:
        DataError: as :func:`read_image`, as far as a header tells.
    """
    return _look(source, name, lambda image: image.size)


def _to_stored(image: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W, C), uint8."""
    return to_uint8(image.detach().float()).permute(1, 2, 0).contiguous().cpu().numpy()


def _look(source: ImageSource, name: str | None, use: Callable[[Image.Image], T]) -> T:
    """``use`` of the opened image, with errors that name it."""
    name = name or (str(source) if isinstance(source, str | Path) else "image")
    try:
        if isinstance(source, Image.Image):
            return use(source)
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()
        ) as image:
            return use(image)
    except DataError as error:
        raise DataError(f"{name} - {error}") from error
    except OSError as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise DataError(
            f"{name} - {'empty, or not an image of a known format' if unknown else error.strerror or error}"
        ) from error
    except Exception as error:  # on damaged files the decoders raise nearly anything
        raise DataError(f"{name} - cannot be decoded: {error}") from error


@functools.cache
def _formats() -> list[str]:
    """All that Pillow decodes by itself; it would hand PostScript, which is a program, to an interpreter."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _pixels(image: Image.Image) -> Pixels:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or (upright.mode == "I" and image.format not in ("PNG", "PPM")):
        raise DataError("32-bit pixels, whose white is unknown; convert it to 8 or 16 bits")
    if upright.mode.startswith("I"):
        return Pixels(
            np.repeat(np.asarray(upright).astype(np.uint16)[..., None], 3, axis=2), None, True
        )
    gray = upright.mode in ("1", "L", "LA", "La")
    if upright.has_transparency_data:
        channels = np.asarray(upright.convert("RGBA"))
        return Pixels(channels[..., :3], channels[..., 3], gray)
    return Pixels(np.asarray(upright.convert("RGB")), None, gray)
