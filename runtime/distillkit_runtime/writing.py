"""Write pictures completely or not at all."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distillkit_runtime.errors import RestoreError

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
TIFF = {"format": "TIFF", "compression": "tiff_deflate"}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 4},
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".jpe": JPEG,
    ".jfif": JPEG,
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": TIFF,
    ".tiff": TIFF,
    ".bmp": {"format": "BMP"},
}
"""What is written, by suffix."""
LONGEST_NAME = 255 - len(".") - len(".4194304.part")
"""Bytes in the name of a file, if the temporary one beside it is to have a name, too."""
_WITHOUT_OPACITY = ("JPEG", "BMP")
_WITH_16_BITS = ("PNG", "TIFF")


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format that the suffix names.

    The file appears under its name only when it is complete. 16-bit gray stays so in PNG and TIFF;
    in other formats it is rounded to 8 bits.

    Raises:
        RestoreError: It cannot be written.
    """
    options = SAVE_OPTIONS[path.suffix.lower()]
    if picture.mode == "I;16" and options["format"] not in _WITH_16_BITS:
        picture = _to_8_bits(picture)
    content = io.BytesIO()
    try:
        picture.save(content, **options)
    except (OSError, ValueError) as e:  # a format bounds the sides of its pictures
        raise RestoreError(f"{path} - cannot be written: {e}") from e
    try:
        _write_atomically(path, content.getbuffer())
    except OSError as e:
        raise RestoreError(
            f"{path} - cannot be written: {e.strerror or e}; nothing is half written: free space "
            "or choose another place, then repeat the command"
        ) from e


def refuse_without_opacity(path: Path) -> None:
    """Refuse a file to write whose format cannot hold transparency.

    Raises:
        RestoreError: By its suffix it is such a file.
    """
    suffix = path.suffix.lower()
    if SAVE_OPTIONS[suffix]["format"] in _WITHOUT_OPACITY:
        raise RestoreError(f"{path} - {suffix} has no transparency; use .png, .webp or .tif")


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Round 16-bit gray to 8 bits. Pillow would clip it at 255."""
    levels = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _write_atomically(path: Path, content: memoryview) -> None:
    """Write beside the file, and rename when all of it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
