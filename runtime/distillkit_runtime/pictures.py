"""Read pictures as a viewer shows them, by the rules of distillkit's engine."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps

from distillkit_runtime.errors import RestoreError, first_line
from distillkit_runtime.tags import bound_tags

bound_tags()

T = TypeVar("T")
Source = str | Path | bytes | Image.Image
"""A file, its content, or an opened picture."""
_MODE_OF_PROFILE = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Pillow's mode by the color space that a profile describes."""


def read_array(source: Source) -> np.ndarray:
    """Read a picture, upright and in sRGB.

    Returns:
        (h, w, C): gray or RGB, and opacity where there is transparency; uint8, or uint16 for
        16-bit gray.

    Raises:
        RestoreError: It is missing, damaged, too large, or no picture.
    """
    return _open_picture(source, _read_pixels)


def read_picture(source: Source) -> Image.Image:
    """Read what :func:`read_array` reads, as a PIL image."""
    return as_picture(read_array(source))


def as_picture(array: np.ndarray) -> Image.Image:
    """Wrap (h, w, C): 1 to 4 channels of uint8, or one of uint16."""
    if array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def has_opacity(source: Source) -> bool:
    """Read from the header whether a picture has transparency.

    Raises:
        RestoreError: As :func:`read_array`, as far as the header shows the problem.
    """
    return _open_picture(source, lambda image: image.has_transparency_data)


def count_frames(source: Source) -> int:
    """Count the frames of an animation, or the pages of a document.

    Raises:
        RestoreError: As :func:`has_opacity`.
    """
    return _open_picture(source, _read_frame_count)


def limit_megapixels(megapixels: float) -> None:
    """Set how large pictures may be, by their headers; without a call, about 179.

    Raises:
        RestoreError: The limit is not positive.
    """
    if not megapixels > 0:
        raise RestoreError(f"a limit of {megapixels:g} megapixels; it has to be more than 0")
    # Pillow warns from its limit on, and refuses from twice as much on.
    Image.MAX_IMAGE_PIXELS = math.ceil(megapixels * 1e6 / 2)


def _open_picture(source: Source, read: Callable[[Image.Image], T]) -> T:
    """Open a picture and read from it, with errors that name it."""
    name = str(source) if isinstance(source, str | Path) else "image"
    try:
        if isinstance(source, Image.Image):
            return read(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_safe_formats()) as image:
            return read(image)
    # On damaged files the decoders raise nearly anything.
    except Exception as error:
        raise RestoreError(f"{name} - {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Say why a picture could not be read."""
    if isinstance(error, RestoreError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"its header claims more than the {_largest_megapixels():g} megapixels that are read; "
            "if you trust it, `distillkit-restore --megapixels N` reads up to N"
        )
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty, or not an image of a known format"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"cannot be decoded: {first_line(error)}"


def _largest_megapixels() -> float:
    assert Image.MAX_IMAGE_PIXELS is not None
    return round(2 * Image.MAX_IMAGE_PIXELS / 1e6, 3)


def _safe_formats() -> list[str]:
    """List what Pillow decodes itself; PostScript, a program, it would hand to an interpreter."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _read_frame_count(image: Image.Image) -> int:
    # A phone's MPO file is one photograph; its further frames serve to show it.
    if image.format == "MPO":
        return 1
    return getattr(image, "n_frames", 1)


def _read_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    # Cameras store turned pixels and the turn to show them with.
    upright = ImageOps.exif_transpose(image)
    # Pillow opens 16-bit gray PNG and PPM files in the 32-bit mode "I".
    is_32_bit = upright.mode == "I" and image.format not in ("PNG", "PPM")
    if upright.mode == "F" or is_32_bit:
        raise RestoreError("32-bit pixels, whose white is unknown; convert it to 8 or 16 bits")
    if upright.mode.startswith("I"):
        return np.asarray(upright).astype(np.uint16)[..., None]
    is_gray = upright.mode in ("1", "L", "LA", "La")
    if not upright.has_transparency_data:
        return _read_colors(upright, is_gray)
    channels = upright.convert("RGBA")
    colors = _read_colors(channels.convert("RGB"), is_gray)
    opacity = np.asarray(channels)[..., 3:]
    return np.concatenate([colors, opacity], axis=2)


def _read_colors(image: Image.Image, is_gray: bool) -> np.ndarray:
    """Read (h, w, 1) of gray or (h, w, 3) of sRGB, converted from the embedded profile."""
    converted = _apply_profile(image, is_gray) or image.convert("RGB")
    channels = 1 if is_gray else 3
    return np.asarray(converted)[..., :channels]


def _apply_profile(image: Image.Image, is_gray: bool) -> Image.Image | None:
    """Convert from the embedded profile to sRGB.

    As in viewers, a profile that is damaged or describes other channels counts as none.
    """
    content = image.info.get("icc_profile")
    if not content:
        return None
    stored = _mode_for_profile(image, is_gray)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        described = _MODE_OF_PROFILE.get(profile.profile.xcolor_space.strip())
        # Through a profile of sRGB itself, values would change by a rounding.
        is_srgb = "sRGB" in (profile.profile.profile_description or "")
        if described != stored or is_srgb:
            return None
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image.convert(stored), profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _mode_for_profile(image: Image.Image, is_gray: bool) -> str:
    if is_gray:
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"
