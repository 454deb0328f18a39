"""Cut, restore and encode the photos that the page sends. Nothing of them is kept."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from distillkit import (
    MAX_SHOWN_PIXELS,
    DataError,
    DistillkitError,
    FaithfulMap,
    Restorer,
    count_frames,
    load_plugins,
    picture_size,
    read_picture,
)

MAX_DECODED_PIXELS = 100_000_000
"""Pixels of the largest photo that is decoded, to be shrunk or cropped."""
Size = tuple[int, int]
"""Width and height."""
OnTile = Callable[[int, int], None]
"""Called after each tile, with the number of tiles that are done and of all."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of a photo, and the size that it is shrunk to."""

    left: int
    top: int
    width: int
    height: int
    to_size: Size


@dataclass(frozen=True)
class Answer:
    """The response to a call of the page."""

    content: bytes
    """A PNG, or bytes for each pixel, as the method says that made it."""
    size: Size
    """Of the image in ``content``; of a photo that is opened, of the photo in its file."""
    frames: int = 1
    """Frames in the photo's file; only the first is restored."""


class DemoService:
    """Restores photos for one caller at a time.

    Args:
        restorer: What to restore with.
        max_pixels: How many pixels of a photo are restored at once.
    """

    def __init__(self, restorer: Restorer, max_pixels: int) -> None:
        self.restorer = restorer
        self.max_pixels = max_pixels
        self.found_names = [spec.name for spec in load_plugins().specs("masks")]
        """What the installed plugins find in photos."""

    @functools.cached_property
    def _faithful(self) -> FaithfulMap:
        return FaithfulMap(self.found_names)

    def open(self, content: bytes) -> Answer:
        """Decode a photo, for the page to show: a PNG, shrunk to what a page shows.

        Raises:
            DataError: The content is no image, a damaged one or too large a one.
        """
        picture = _decode(content)
        factor = min(1, (MAX_SHOWN_PIXELS / (picture.width * picture.height)) ** 0.5)
        small = (max(1, int(picture.width * factor)), max(1, int(picture.height * factor)))
        png = _to_png(_resize(_to_8_bits(picture), small))
        return Answer(png, picture.size, count_frames(content))

    def cut(self, content: bytes, crop: Crop) -> Answer:
        """Return the pixels that :meth:`restore` restores, as a PNG of 8 bits.

        Raises:
            DataError: As :meth:`open`, or the crop is not inside of the photo or too large.
        """
        picture = _to_8_bits(self._cut(content, crop))
        return Answer(_to_png(picture), picture.size)

    def find(self, content: bytes, crop: Crop, shown: Size) -> Answer:
        """Find in a crop what plugins find: a byte for each pixel that is shown, row by row.

        Raises:
            DistillkitError: As :meth:`restore`, or no plugin finds anything.
        """
        _check_shown(shown)
        found = self._faithful(self._cut(content, crop))
        return Answer(_resize(found, shown).tobytes(), shown)

    def restore(
        self, content: bytes, crop: Crop, tradeoff: float | None, shown: Size, on_tile: OnTile
    ) -> Answer:
        """Restore a crop for the page to blend: bytes of RGB, row by row.

        Args:
            content: The photo's file.
            crop: What to restore of it.
            tradeoff: 0 is most realistic, 1 most faithful; None is the student's own.
            shown: The size that the page shows the result in.
            on_tile: Called after each tile.

        Raises:
            DistillkitError: As :meth:`cut` and :meth:`Restorer.__call__`.
        """
        _check_shown(shown)
        restored = self._restore(self._cut(content, crop), tradeoff, on_tile)
        view = _resize(_to_8_bits(restored).convert("RGB"), shown)
        return Answer(view.tobytes(), shown)

    def save(self, content: bytes, crop: Crop, tradeoff: Any, on_tile: OnTile) -> Answer:
        """Restore a crop for the download: a PNG with every pixel.

        It has opacity and 16 bits where the photo has them.

        Args:
            content: The photo's file.
            crop: What to restore of it.
            tradeoff: As of :meth:`restore`, or a map of tradeoffs.
            on_tile: Called after each tile.

        Raises:
            DistillkitError: As :meth:`cut` and :meth:`Restorer.__call__`.
        """
        restored = self._restore(self._cut(content, crop), tradeoff, on_tile)
        return Answer(_to_png(restored), restored.size)

    def _restore(self, picture: Image.Image, tradeoff: Any, on_tile: OnTile) -> Image.Image:
        self.restorer.on_tile = on_tile
        restored: Image.Image = self.restorer(picture, tradeoff)
        return restored

    def _cut(self, content: bytes, crop: Crop) -> Image.Image:
        width, height = crop.to_size
        if width * height > self.max_pixels:
            raise DataError(
                f"image - {width} x {height} pixels are more than the "
                f"{self.max_pixels / 1e6:g} million that this demo restores at once; "
                "`distillkit restore` takes photos of any size"
            )
        picture = _decode(content)
        right = crop.left + crop.width
        bottom = crop.top + crop.height
        fits = 0 <= crop.left < right <= picture.width and 0 <= crop.top < bottom <= picture.height
        shrinks = 1 <= width <= crop.width and 1 <= height <= crop.height
        if not fits or not shrinks:
            raise DataError(f"image - {picture.width} x {picture.height} pixels have no such crop")
        return _resize(picture.crop((crop.left, crop.top, right, bottom)), crop.to_size)


def read_map(content: bytes, size: Size) -> np.ndarray:
    """Read a map of tradeoffs as the page sends it: float32, row by row.

    Raises:
        DistillkitError: It is not as long as its size says.
    """
    width, height = size
    if min(size) < 1 or width * height > MAX_SHOWN_PIXELS or len(content) != 4 * width * height:
        raise DistillkitError(f"{len(content)} bytes are no map of {width} x {height} tradeoffs")
    # Copied, because a tensor has to be writable.
    return np.frombuffer(content, "<f4").reshape(height, width).copy()


def _check_shown(size: Size) -> None:
    if min(size) < 1 or size[0] * size[1] > MAX_SHOWN_PIXELS:
        raise DataError(f"a page cannot show {size[0]} x {size[1]} pixels")


def _decode(content: bytes) -> Image.Image:
    """Decode a photo: upright, with the mode and depth that its result has."""
    width, height = picture_size(content)
    if width * height > MAX_DECODED_PIXELS:
        raise DataError(
            f"image - {width} x {height} pixels are more than the "
            f"{MAX_DECODED_PIXELS / 1e6:g} million that this demo opens"
        )
    return read_picture(content)


def _resize(picture: Image.Image, size: Size) -> Image.Image:
    if picture.size == size:
        return picture
    if picture.mode != "I;16":
        return picture.resize(size, Image.Resampling.BICUBIC)
    # Pillow resizes one channel of more than 8 bits as float32 only.
    values = Image.fromarray(np.asarray(picture).astype(np.float32))
    resized = np.asarray(values.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(resized.round().clip(0, 65535).astype(np.uint16))


def _to_8_bits(picture: Image.Image) -> Image.Image:
    if picture.mode != "I;16":
        return picture
    # Pillow would clip at 255 instead of scaling.
    return Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))


def _to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    # Level 1 is several times as fast as Pillow's 6; the bytes stay on this machine.
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
