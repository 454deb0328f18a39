"""What the demo does with a photo, apart from showing it: checks, restores and keeps a few results."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distillkit.errors import DataError
from distillkit.files.images import decode_apart, picture_size, write_picture
from distillkit.inference.image_types import as_array
from distillkit.inference.restorer import Restorer

VIEW = 2048
"""Longest side of what the page shows, in pixels; a result to download has them all."""
KEPT_PHOTOS, KEPT_RESULTS = 8, 64


@dataclass(frozen=True)
class Photo:
    """A photo that was accepted."""

    key: str
    picture: Image.Image
    """Upright and decoded, with the mode and depth that its result will have."""
    view: Path
    """As large as its results are shown, enlarged bicubically."""


@dataclass(frozen=True)
class Result:
    """A restored photo."""

    whole: Path
    """PNG: every pixel, opacity and 16 bits where the photo has them."""
    view: Path
    size: tuple[int, int]
    seconds: float

    def there(self) -> bool:
        """Whether nobody has deleted its files, as Gradio does with old ones."""
        return self.whole.exists() and self.view.exists()


class Desk:
    """Restores photos for one caller at a time. The photos and results last asked for are kept: asking again costs nothing.

    Args:
        folder: where to keep results; emptied of those not asked for lately. max_pixels: of a photo.
    """

    def __init__(self, restorer: Restorer, folder: Path, max_pixels: int) -> None:
        self.restorer, self.folder, self.max_pixels = restorer, folder, max_pixels
        self._photos: OrderedDict[str, Photo] = OrderedDict()
        self._results: OrderedDict[tuple[str, float | None], Result] = OrderedDict()

    def photo(self, content: bytes) -> Photo:
        """The photo in a file's content.

        Raises:
            DataError: not an image, a damaged one, or one of more than ``max_pixels``, which is then not decoded.
        """
        key = hashlib.sha256(content).hexdigest()
        if key not in self._photos or not self._photos[key].view.exists():
            width, height = picture_size(content)
            if width * height > self.max_pixels:
                what = f"{width} x {height} pixels are more than the {self.max_pixels / 1e6:g} million that this demo takes"
                raise DataError(f"image - {what}; `distillkit restore` takes photos of any size")
            array, back = as_array(content)
            picture = back(array)
            width, height = (side * self.restorer.scale for side in picture.size)
            self._photos[key] = Photo(
                key, picture, self._write_view(picture, (width, height), self._place())
            )
        self._photos.move_to_end(key)
        while len(self._photos) > KEPT_PHOTOS:
            _discard(self._photos.popitem(last=False)[1].view)
        return self._photos[key]

    def restored(self, photo: Photo, tradeoff: float | None) -> Result:
        """The photo, restored.

        Raises:
            DistillkitError: as :meth:`Restorer.__call__`.
        """
        key = photo.key, tradeoff
        if key not in self._results or not self._results[key].there():
            start = time.perf_counter()
            restored = self.restorer(photo.picture, tradeoff)
            seconds = time.perf_counter() - start
            place = self._place()
            whole = place / ("restored.png" if tradeoff is None else f"restored_t{tradeoff:g}.png")
            write_picture(restored, whole)
            self._results[key] = Result(
                whole, self._write_view(restored, restored.size, place), restored.size, seconds
            )
        self._results.move_to_end(key)
        while len(self._results) > KEPT_RESULTS:
            _discard(self._results.popitem(last=False)[1].view)
        return self._results[key]

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="photo-", dir=self.folder))

    def _write_view(self, picture: Image.Image, size: tuple[int, int], place: Path) -> Path:
        """``picture`` for a browser, at ``size`` or as large as is shown: 8 bits, JPEG, or PNG where there is opacity."""
        pixels = decode_apart(picture)
        colors = (
            pixels.colors
            if pixels.colors.dtype == np.uint8
            else (pixels.colors // 257).astype(np.uint8)
        )
        view = Image.fromarray(colors)
        if pixels.alpha is not None:
            view.putalpha(Image.fromarray(pixels.alpha))
        shrink = min(1, VIEW / max(size))
        shown = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
        path = place / ("view.jpg" if pixels.alpha is None else "view.png")
        write_picture(
            view if shown == view.size else view.resize(shown, Image.Resampling.BICUBIC), path
        )
        return path


def _discard(file: Path) -> None:
    shutil.rmtree(file.parent, ignore_errors=True)
