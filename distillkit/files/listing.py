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
"""What is looked for in folders, by every command. A file that is named may have any suffix."""

_APPLE_DOUBLE = "._"
"""How the files begin that a Mac writes beside others, to hold their attributes."""


def has_suffix(path: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a file is one of those looked for; a Mac's ``._`` files never are."""
    return path.suffix.lower() in suffixes and not path.name.startswith(_APPLE_DOUBLE)


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
