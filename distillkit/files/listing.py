"""Decide by their names which files are images, and list those of a folder.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from distillkit.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Suffixes that every command searches folders for. A file that is named may have any suffix."""


def is_apple_double(path: Path) -> bool:
    """Whether macOS wrote a file beside another one, to hold its attributes: ``._photo.jpg``."""
    return path.name.startswith("._")


def has_suffix(path: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a file has one of the suffixes and is not a ``._`` file of macOS.

    Args:
        path: The file.
        suffixes: In lower case, with the dot.
    """
    return path.suffix.lower() in suffixes and not is_apple_double(path)


def find_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the files in a folder and below it, also behind links to other folders.

    Args:
        folder: Where to look.
        suffixes: In lower case.

    Returns:
        The paths, all of which begin with ``folder``, sorted as texts.

    Raises:
        DataError: A folder cannot be read.
    """
    found = [path for path in _walk(folder) if has_suffix(path, suffixes) and path.is_file()]
    return sorted(found, key=Path.as_posix)


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, below, names in os.walk(folder, onerror=_refuse, followlinks=True):
        # A link may lead back to a folder above it.
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        for name in names:
            yield Path(place, name)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} - cannot be read: {error.strerror}") from error
