"""Read image files as a viewer shows them, and write them."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from distillkit.errors import DataError
from distillkit.files.atomic import atomic_file
from distillkit.files.tiff_tags import bound_tags

bound_tags()

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
    # Level 4 takes 0.4 times the time of level 6 for 3 % more bytes, measured on photographs.
    ".png": {"format": "PNG", "compress_level": 4},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpe": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jfif": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF", "compression": "tiff_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_deflate"},
    ".bmp": {"format": "BMP"},
}
_WITHOUT_ALPHA = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp")
_WITH_16_BITS = (".png", ".tif", ".tiff")
_MODE_OF_PROFILE = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Pillow's mode by the color space that a profile describes."""


def read_image(source: ImageSource, name: str | None = None) -> Tensor:
    """Read an image as a viewer shows it.

    The content decides the format, not the suffix; of an animation the first frame is read. EXIF
    orientation is applied. Gray and palette images become RGB, transparency is laid on white.
    Colors are converted to sRGB from the embedded profile; damaged profiles, and those of 16-bit
    gray, are ignored. 16-bit gray keeps its precision (65535 -> 1); 16-bit RGB is read at 8 bits.

    Args:
        source: Path, bytes or PIL image.
        name: What errors call it; default: its path.

    Returns:
        (3, H, W) float32 in [-1, 1].

    Raises:
        DataError: The file is missing, empty, truncated, damaged or no image; its pixel format has
            no defined white (32-bit); its tags claim more bytes than it has; or its header claims
            more pixels than :func:`limit_megapixels` allows (about 179 million).
    """
    return to_float(decode_image(source, name))


def decode_image(source: ImageSource, name: str | None = None) -> np.ndarray:
    """Read an image as :func:`read_image` does, but keep the integers of the file.

    Returns:
        (H, W, 3), uint8 or (for 16-bit gray) uint16.
    """
    colors, alpha, _ = decode_with_alpha(source, name)
    if alpha is None:
        return colors
    opacity = alpha[..., None].astype(np.uint16)
    # In integers, rounded to nearest.
    on_white = colors * opacity + 255 * (255 - opacity)
    return ((on_white + 127) // 255).astype(np.uint8)


def decode_with_alpha(source: ImageSource, name: str | None = None) -> Pixels:
    """Read an image as :func:`decode_image` does, with the opacity as an array of its own."""
    return _open_image(source, name, _read_pixels)


def picture_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """Read width and height from the header, before EXIF orientation.

    No pixel is decoded.

    Raises:
        DataError: As :func:`read_image`, as far as the header shows the problem.
    """
    return _open_image(source, name, _read_size)


def upright_size(source: ImageSource, name: str | None = None) -> tuple[int, int]:
    """Read height and width from the header, after EXIF orientation.

    No pixel is decoded. The order is that of an array's shape, other than :func:`picture_size`.

    Raises:
        DataError: As :func:`picture_size`.
    """
    return _open_image(source, name, _read_upright_size)


def limit_megapixels(megapixels: float) -> None:
    """Set how large images may be, for the whole process.

    The header decides, before a pixel is decoded. Without a call, the limit is Pillow's: about 179.

    Raises:
        DataError: The limit is not positive.
    """
    if not megapixels > 0:
        raise DataError(f"a limit of {megapixels:g} megapixels; it has to be more than 0")
    # Pillow warns from its limit on, and refuses from twice as much on.
    Image.MAX_IMAGE_PIXELS = math.ceil(megapixels * 1e6 / 2)


def has_opacity(source: ImageSource, name: str | None = None) -> bool:
    """Read from the header whether an image has transparency.

    Raises:
        DataError: As :func:`picture_size`.
    """
    return _open_image(source, name, _read_has_opacity)


def count_frames(source: ImageSource, name: str | None = None) -> int:
    """Count the frames of an animation, or the pages of a document.

    Raises:
        DataError: As :func:`picture_size`.
    """
    return _open_image(source, name, _read_frame_count)


def to_float(array: np.ndarray) -> Tensor:
    """Convert an image as stored to float32 in [-1, 1].

    Args:
        array: (H, W, C), uint8, uint16 or float in [0, 1].

    Returns:
        (C, H, W).
    """
    largest = 1
    if array.dtype.kind == "u":
        largest = np.iinfo(array.dtype).max
    values = np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(values / np.float32(largest / 2) - 1)


def to_uint8(image: Tensor) -> Tensor:
    """Convert [-1, 1] to uint8: clamped, and rounded to nearest."""
    scaled = (image.clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8)


def to_pil(array: np.ndarray) -> Image.Image:
    """Wrap an array as a PIL image of mode L, LA, RGB, RGBA or I;16.

    Args:
        array: (H, W, C), with 1 to 4 channels of uint8, or one of uint16.
    """
    if array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def write_image(
    image: Tensor,
    path: str | Path,
    alpha: Tensor | None = None,
) -> None:
    """Write an image with 8 bits, in the format that the suffix names.

    PNG, WebP and TIFF are lossless, JPEG has quality 95 without chroma subsampling. The file
    appears under its name only when it is complete.

    Args:
        image: (3, H, W) in [-1, 1].
        path: Ends in .png, .jpg, .jpeg, .webp, .tif, .tiff or .bmp.
        alpha: Opacity (1, H, W) in [0, 1].

    Raises:
        DataError: An unknown suffix, alpha in a format without it, or values that are not finite.
        DiskError: The file cannot be written.
    """
    if not bool(torch.isfinite(image).all()):
        raise DataError(f"{path} - not written: the image has values that are not finite")
    picture = to_pil(_to_stored(image))
    if alpha is not None:
        picture.putalpha(to_pil(_to_stored(alpha * 2 - 1)))
    write_picture(picture, path)


def write_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a PIL image with its mode, as :func:`write_image` does.

    16-bit gray stays so in PNG and TIFF; in other formats it is rounded to 8 bits.

    Raises:
        DataError: An unknown suffix, or a mode that the format does not have.
        DiskError: The file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SAVE_OPTIONS:
        raise DataError(
            f"{path} - cannot write {suffix or 'a file without suffix'}; use one of "
            f"{', '.join(_SAVE_OPTIONS)}"
        )
    if picture.mode in ("LA", "RGBA"):
        refuse_without_opacity(path)
    if picture.mode == "I;16" and suffix not in _WITH_16_BITS:
        picture = to_8_bits(picture)
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            picture.save(file, **_SAVE_OPTIONS[suffix])
    except ValueError as error:
        raise DataError(f"{path} - cannot be written: {error}") from error


def refuse_without_opacity(path: Path) -> None:
    """Refuse a file to write whose format cannot hold transparency.

    Raises:
        DataError: By its suffix it is such a file.
    """
    suffix = path.suffix.lower()
    if suffix in _WITHOUT_ALPHA:
        raise DataError(f"{path} - {suffix} has no transparency; use .png, .webp or .tif")


def to_8_bits(picture: Image.Image) -> Image.Image:
    """Round 16-bit gray to 8 bits. Pillow would clip it at 255."""
    values = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _to_stored(image: Tensor) -> np.ndarray:
    """Convert (C, H, W) in [-1, 1] to (H, W, C), uint8."""
    stored = to_uint8(image.detach().float())
    return stored.permute(1, 2, 0).contiguous().cpu().numpy()


def _open_image(
    source: ImageSource,
    name: str | None,
    read: Callable[[Image.Image], T],
) -> T:
    """Open an image and read from it, with errors that name it."""
    if name is None:
        name = str(source) if isinstance(source, str | Path) else "image"
    try:
        if isinstance(source, Image.Image):
            return read(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_safe_formats()) as image:
            return read(image)
    # On damaged files the decoders raise nearly anything.
    except Exception as error:
        raise DataError(f"{name} - {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Explain why an image could not be read, as a part of an error text."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"its header claims more than the {_largest_megapixels():g} megapixels that are read; "
            "if you trust it, `distillkit restore --megapixels N` reads up to N"
        )
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty, or not an image of a known format"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"cannot be decoded: {error}"


def _largest_megapixels() -> float:
    assert Image.MAX_IMAGE_PIXELS is not None
    return round(2 * Image.MAX_IMAGE_PIXELS / 1e6, 3)


@functools.cache
def _safe_formats() -> list[str]:
    """List the formats that Pillow decodes by itself.

    It would hand PostScript, which is a program, to an interpreter.
    """
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _read_size(image: Image.Image) -> tuple[int, int]:
    return image.size


def _read_upright_size(image: Image.Image) -> tuple[int, int]:
    # The orientations from 5 on turn by a quarter.
    if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:
        return image.size
    return image.height, image.width


def _read_has_opacity(image: Image.Image) -> bool:
    return image.has_transparency_data


def _read_frame_count(image: Image.Image) -> int:
    # A phone's MPO file is one photograph; its further frames serve to show it.
    if image.format == "MPO":
        return 1
    return getattr(image, "n_frames", 1)


def _read_pixels(image: Image.Image) -> Pixels:
    image.load()
    # Cameras store turned pixels and the turn to show them with.
    upright = ImageOps.exif_transpose(image)
    is_16_bit = upright.mode.startswith("I")
    # Pillow opens 16-bit gray PNG and PPM files in the 32-bit mode "I".
    is_32_bit = upright.mode == "I" and image.format not in ("PNG", "PPM")
    if upright.mode == "F" or is_32_bit:
        raise DataError("32-bit pixels, whose white is unknown; convert it to 8 or 16 bits")
    if is_16_bit:
        gray = np.asarray(upright).astype(np.uint16)
        return Pixels(np.repeat(gray[..., None], 3, axis=2), None, True)
    is_gray = upright.mode in ("1", "L", "LA", "La")
    if upright.has_transparency_data:
        channels = upright.convert("RGBA")
        colors = _to_srgb(channels.convert("RGB"), is_gray)
        return Pixels(np.asarray(colors), np.asarray(channels)[..., 3], is_gray)
    return Pixels(np.asarray(_to_srgb(upright, is_gray)), None, is_gray)


def _to_srgb(image: Image.Image, is_gray: bool) -> Image.Image:
    """Convert to RGB, and from the embedded profile to sRGB.

    As in viewers, a profile that is damaged or describes other channels counts as none.
    """
    content = image.info.get("icc_profile")
    plain = image.convert("RGB")
    if not content:
        return plain
    stored = "RGB"
    if is_gray:
        stored = "L"
    elif image.mode == "CMYK":
        stored = "CMYK"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        described = _MODE_OF_PROFILE.get(profile.profile.xcolor_space.strip())
        # Through a profile of sRGB itself, values would change by a rounding.
        is_srgb = "sRGB" in (profile.profile.profile_description or "")
        if described != stored or is_srgb:
            return plain
        srgb = ImageCms.createProfile("sRGB")
        image = image.convert(stored)
        return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or plain
    except (ImageCms.PyCMSError, OSError):
        return plain
