"""The comparison figure: photos as rows, methods as columns (CTSR, Fig. 6)."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distillkit.evaluation.gallery import DETAIL_SIDE, Picture, image_title, sort_for_display
from distillkit.files.images import to_pil

TILE = 2 * DETAIL_SIDE
"""Side of a tile, pixels."""
MAX_LOSSLESS_PIXELS = 2**19
"""Larger images are stored as JPEG files: a page with dozens of them has to open."""
GAP = 6
HEADER = 26
BACKGROUND = "#5a5d62"
"""A neutral gray, beside which photos look the same on a light and on a dark page."""
TITLE_COLOR = "#ffffff"


def draw_comparison(pictures: Mapping[str, Picture], teachers: tuple[str, str] | None) -> bytes:
    """Draw the images of every method side by side, one row for each photo.

    Columns are the input, baselines, teachers, the student by tradeoff, and the ground truth. A
    tile shows the region where the methods differ most, enlarged by a whole number without
    smoothing, the input too.

    Args:
        pictures: By item, at least one.
        teachers: Labels of the faithful and the realistic teacher.

    Returns:
        A PNG file.
    """
    details = [picture.detail for picture in pictures.values()]
    labels = sort_for_display(list(details[0]), teachers)
    step = TILE + GAP
    width = step * len(labels) - GAP
    height = HEADER + step * len(details) - GAP
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(_font_file(), 14)
    for column, label in enumerate(labels):
        left = step * column
        draw.text(
            (left + TILE / 2, HEADER / 2),
            image_title(label, teachers),
            fill=TITLE_COLOR,
            font=font,
            anchor="mm",
        )
        for row, images in enumerate(details):
            # A crop smaller than the tile stays in its upper left corner.
            tile = _enlarge(_to_pillow(images[label]))
            top = HEADER + step * row
            canvas.paste(tile, (left, top))
    return _encode(canvas)


def image_uri(image: Tensor) -> str:
    """Encode a uint8 image (3, H, W) as a data URI, without loss where it is not large."""
    picture = _to_pillow(image)
    if picture.width * picture.height <= MAX_LOSSLESS_PIXELS:
        return data_uri(_encode(picture))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90, subsampling=0)
    return data_uri(buffer.getvalue(), "jpeg")


def data_uri(content: bytes, kind: str = "png") -> str:
    """Write a file of an image as an address that a page can show."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _font_file() -> Path:
    """Find the font that matplotlib ships: titles look alike on every machine."""
    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _enlarge(image: Image.Image) -> Image.Image:
    longer_side = max(image.size)
    scale = max(1, TILE // longer_side)
    width = image.width * scale
    height = image.height * scale
    return image.resize((width, height), Image.Resampling.NEAREST)


def _to_pillow(image: Tensor) -> Image.Image:
    channels_last = image.movedim(0, -1).contiguous()
    return to_pil(channels_last.numpy())


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
