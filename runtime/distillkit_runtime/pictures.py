"""Read pictures as a viewer shows them, and write them completely or not at all."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from distillkit_runtime.errors import RestoreError, first_line

Source = str | Path | bytes | Image.Image
"""A file, its content, or an opened picture."""
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
TIFF = {"format": "TIFF", "compression": "tiff_deflate"}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 4},
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": TIFF,
    ".tiff": TIFF,
    ".bmp": {"format": "BMP"},
}
"""What is written, by suffix."""
_WITHOUT_OPACITY = ("JPEG", "BMP")
_WITH_16_BITS = ("PNG", "TIFF")
_CHANNELS_OF_PROFILE = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Pillow's mode by the color space that a profile describes."""


def read_picture(source: Source) -> Image.Image:
    """Read a picture: upright, in sRGB, with the mode that its restored picture has.

    Returns:
        A picture of mode L, LA, RGB, RGBA or, for 16-bit gray, I;16.

    Raises:
        RestoreError: it is missing, damaged, too large, or no picture.
    """
    if isinstance(source, Image.Image):
        return _decode(source)
    name = "picture" if isinstance(source, bytes) else source
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=_safe_formats()) as image:
            return _decode(image)
    except RestoreError as e:
        raise RestoreError(f"{name} - {e}") from e
    except Image.UnidentifiedImageError as e:
        raise RestoreError(f"{name} - empty, or not a picture of a known format") from e
    except OSError as e:
        raise RestoreError(f"{name} - {e.strerror or e}") from e
    except Exception as e:  # on damaged files the decoders raise nearly anything
        raise RestoreError(f"{name} - cannot be decoded: {first_line(e)}") from e


def count_frames(path: Path) -> int:
    """Count the frames of an animation, or the pages of a document, that can be read."""
    with Image.open(path) as image:
        # A phone's MPO file is one photograph; its further frames serve to show it.
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def as_picture(array: np.ndarray) -> Image.Image:
    """Wrap (h, w, C): 1 to 4 channels of uint8, or one of uint16."""
    if array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format that the suffix names.

    The file appears under its name only when it is complete.

    Raises:
        RestoreError: it cannot be written.
    """
    options = SAVE_OPTIONS[path.suffix.lower()]
    if picture.mode == "I;16" and options["format"] not in _WITH_16_BITS:
        levels = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            picture.save(file, **options)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as e:
        raise RestoreError(
            f"{path} - cannot be written: {e.strerror or e}; nothing is half written. Free "
            "space or choose another place, then repeat the command"
        ) from e
    except ValueError as e:
        raise RestoreError(f"{path} - cannot be written: {e}") from e
    finally:
        with suppress(OSError):
            temporary.unlink()


def refuse_lost_opacity(picture: Image.Image, path: Path) -> None:
    """Refuse a file to write that cannot hold the transparency of its picture."""
    suffix = path.suffix.lower()
    if picture.mode in ("LA", "RGBA") and SAVE_OPTIONS[suffix]["format"] in _WITHOUT_OPACITY:
        raise RestoreError(f"{path} - {suffix} has no transparency; use .png, .webp or .tif")


def _safe_formats() -> list[str]:
    """List what Pillow decodes itself; PostScript, a program, it would hand to an interpreter."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _decode(image: Image.Image) -> Image.Image:
    image.load()
    # Cameras store turned pixels and the turn to show them with.
    upright = ImageOps.exif_transpose(image)
    # Pillow opens 16-bit gray PNG and PPM files in the 32-bit mode "I".
    is_32_bit = upright.mode == "I" and image.format not in ("PNG", "PPM")
    if upright.mode == "F" or is_32_bit:
        raise RestoreError("32-bit pixels, whose white is unknown; convert it to 8 or 16 bits")
    if upright.mode.startswith("I"):
        return Image.fromarray(np.asarray(upright).astype(np.uint16))
    is_gray = upright.mode in ("1", "L", "LA", "La")
    if not upright.has_transparency_data:
        return _to_srgb(upright, is_gray)
    channels = upright.convert("RGBA")
    picture = _to_srgb(channels.convert("RGB"), is_gray)
    picture.putalpha(channels.getchannel("A"))
    return picture


def _to_srgb(image: Image.Image, is_gray: bool) -> Image.Image:
    """Convert from the embedded profile to sRGB; L where the picture is gray, else RGB.

    As in viewers, a profile that is damaged or describes other channels counts as none.
    """
    converted = _apply_profile(image, is_gray) or image.convert("RGB")
    return converted.getchannel(0) if is_gray else converted


def _apply_profile(image: Image.Image, is_gray: bool) -> Image.Image | None:
    content = image.info.get("icc_profile")
    if not content:
        return None
    stored = "CMYK" if image.mode == "CMYK" else "RGB"
    if is_gray:
        stored = "L"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        described = _CHANNELS_OF_PROFILE.get(profile.profile.xcolor_space.strip())
        # Through a profile of sRGB itself, values would change by a rounding.
        is_srgb = "sRGB" in (profile.profile.profile_description or "")
        if described != stored or is_srgb:
            return None
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image.convert(stored), profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
