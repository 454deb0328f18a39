"""The comparison figure: photos as rows, methods as columns (CTSR, Fig. 6)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distillkit.evaluation.gallery import Images, crop_center, image_title, sort_for_display
from distillkit.files.images import to_pil

TILE = 192
"""Side of a tile, pixels."""
GAP = 6
HEADER = 26
TEXT_COLOR = "#22262d"


def draw_comparison(photos: Mapping[str, Images], teachers: tuple[str, str] | None) -> bytes:
    """Draw the images of every method side by side, one row for each photo.

    Columns are the input, baselines, teachers, the student by tradeoff, and the ground truth. A
    tile shows the central 96 x 96 ground-truth pixels (all of a smaller image), enlarged by a whole
    number without smoothing, the input too.

    Args:
        photos: images of every method by photo, at least one photo.
        teachers: labels of the faithful and the realistic teacher.

    Returns:
        A PNG file.
    """
    centers = [crop_center(images, TILE // 2) for images in photos.values()]
    labels = sort_for_display(list(centers[0]), teachers)
    step = TILE + GAP
    width = step * len(labels) - GAP
    height = HEADER + step * len(centers) - GAP
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(_font_file(), 14)
    for column, label in enumerate(labels):
        left = step * column
        draw.text(
            (left + TILE / 2, HEADER / 2),
            image_title(label, teachers),
            fill=TEXT_COLOR,
            font=font,
            anchor="mm",
        )
        for row, images in enumerate(centers):
            # A crop smaller than the tile stays in its upper left corner.
            tile = _enlarge(_to_pillow(images[label]))
            top = HEADER + step * row
            canvas.paste(tile, (left, top))
    return _encode(canvas)


def encode_image(image: Tensor) -> bytes:
    """Encode a uint8 image (3, H, W) as a PNG file."""
    return _encode(_to_pillow(image))


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
