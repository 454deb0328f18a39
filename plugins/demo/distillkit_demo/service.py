"""Check and restore the photos of the page, and keep the latest results."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from distillkit import DataError, Restorer, count_frames, picture_size, read_picture, write_picture

LONGEST_VIEW_SIDE = 2048
"""Pixels of what the page shows; a result to download has all of them."""
MAX_KEPT_PHOTOS = 8
MAX_KEPT_RESULTS = 64


@dataclass(frozen=True)
class FilesOnDisk:
    """What is kept in a folder of its own."""

    folder: Path
    view: Path
    """The picture that the page shows."""

    def exist(self) -> bool:
        """Tell whether all files are still there; Gradio deletes old ones."""
        return self.view.exists()


@dataclass(frozen=True)
class Photo(FilesOnDisk):
    """A photo that was accepted; its view is enlarged bicubically to the size of its results."""

    key: str
    picture: Image.Image
    """Upright and decoded, with the mode and depth that its results have."""
    frames: int
    """Of the file; more than the first are not restored."""


@dataclass(frozen=True)
class RestoredPhoto(FilesOnDisk):
    """A result."""

    download: Path
    """A PNG with every pixel, with opacity and 16 bits where the photo has them."""
    size: tuple[int, int]
    seconds: float

    def exist(self) -> bool:
        return super().exist() and self.download.exists()


class DemoService:
    """Restores photos for one caller at a time.

    The photos and results last asked for are kept, so that asking for them again costs nothing.

    Args:
        restorer: What to restore with.
        folder: Where files are kept; those not asked for lately are deleted.
        max_pixels: The largest photo that is accepted.
    """

    def __init__(self, restorer: Restorer, folder: Path, max_pixels: int) -> None:
        self.restorer = restorer
        self.folder = folder
        self.max_pixels = max_pixels
        self._photos = _Latest[Photo](MAX_KEPT_PHOTOS)
        self._results = _Latest[RestoredPhoto](MAX_KEPT_RESULTS)

    def accept(self, content: bytes) -> Photo:
        """Decode the photo in a file's content.

        Raises:
            DataError: The content is no image, a damaged one, or one of more than ``max_pixels``,
                which is not decoded.
        """
        # Not the file's name, which is new for every upload of the same photo.
        key = hashlib.sha256(content).hexdigest()
        return self._photos.get(key, lambda: self._decode(content, key))

    def restore(self, photo: Photo, tradeoff: float | None) -> RestoredPhoto:
        """Restore a photo, or return the result of an earlier call.

        Args:
            photo: From :meth:`accept`.
            tradeoff: 0 is most realistic, 1 most faithful; None is the student's own.

        Raises:
            DistillkitError: As :meth:`Restorer.__call__`.
        """
        key = (photo.key, tradeoff)
        return self._results.get(key, lambda: self._restore(photo.picture, tradeoff))

    def _decode(self, content: bytes, key: str) -> Photo:
        width, height = picture_size(content)
        if width * height > self.max_pixels:
            raise DataError(
                f"image - {width} x {height} pixels are more than the "
                f"{self.max_pixels / 1e6:g} million that this demo takes; "
                "`distillkit restore` takes photos of any size"
            )
        picture = read_picture(content)
        scale = self.restorer.scale
        folder = self._make_folder()
        view = _write_view(picture, (picture.width * scale, picture.height * scale), folder)
        return Photo(folder, view, key, picture, count_frames(content))

    def _restore(self, picture: Image.Image, tradeoff: float | None) -> RestoredPhoto:
        start = time.perf_counter()
        restored = self.restorer(picture, tradeoff)
        seconds = time.perf_counter() - start
        name = "restored.png" if tradeoff is None else f"restored_t{tradeoff:g}.png"
        folder = self._make_folder()
        download = folder / name
        write_picture(restored, download)
        view = _write_view(restored, restored.size, folder)
        return RestoredPhoto(folder, view, download, restored.size, seconds)

    def _make_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="photo-", dir=self.folder))


T = TypeVar("T", bound=FilesOnDisk)


class _Latest(Generic[T]):
    """The files last asked for; the folders of older ones are deleted."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is kept under ``key``; make it if its files are not there."""
        item = self._items.get(key)
        if item is None or not item.exist():
            item = make()
            self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self.capacity:
            _, oldest = self._items.popitem(last=False)
            shutil.rmtree(oldest.folder, ignore_errors=True)
        return item


def _write_view(picture: Image.Image, full_size: tuple[int, int], folder: Path) -> Path:
    """Write what a browser shows of a picture, at ``full_size`` or as large as is shown.

    It has 8 bits, and is a JPEG, or a PNG if there is opacity.
    """
    view = _to_8_bit_rgb(picture)
    factor = min(1, LONGEST_VIEW_SIDE / max(full_size))
    width, height = (max(1, round(side * factor)) for side in full_size)
    if view.size != (width, height):
        view = view.resize((width, height), Image.Resampling.BICUBIC)
    path = folder / ("view.png" if view.mode == "RGBA" else "view.jpg")
    write_picture(view, path)
    return path


def _to_8_bit_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "I;16":
        # Pillow would clip at 255 instead of scaling.
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    if picture.mode in ("LA", "RGBA"):
        return picture.convert("RGBA")
    return picture.convert("RGB")
