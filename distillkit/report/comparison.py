"""The image strip: one row per photo, one column per method, pixel for pixel (CTSR, Fig. 6)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distillkit.evaluation.gallery import Images, caption, center, in_order

TILE, GAP, HEADER = 192, 6, 26


def strip_png(photos: Mapping[str, Images], teachers: tuple[str, str] | None) -> bytes:
    """Photos as rows; columns are the input (enlarged without smoothing), baselines, teachers, student by tradeoff, ground truth.

    Each tile is the central 96 x 96 ground-truth pixels (all of a smaller image), enlarged by a whole number without smoothing.
    """
    shown = {name: center(images, TILE // 2) for name, images in photos.items()}
    labels = in_order(list(next(iter(shown.values()))), teachers)
    font = ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 14
    )
    canvas = Image.new(
        "RGB", (len(labels) * (TILE + GAP) - GAP, HEADER + len(shown) * (TILE + GAP) - GAP), "white"
    )
    draw = ImageDraw.Draw(canvas)
    for column, label in enumerate(labels):
        left = column * (TILE + GAP)
        draw.text(
            (left + TILE / 2, HEADER / 2),
            caption(label, teachers),
            fill="#22262d",
            font=font,
            anchor="mm",
        )
        for row, images in enumerate(shown.values()):
            canvas.paste(_tile(images[label]), (left, HEADER + row * (TILE + GAP)))
    return _encode(canvas)


def image_png(image: Tensor) -> bytes:
    """A uint8 image (3, H, W) as a PNG file."""
    return _encode(to_pil(image))


def to_pil(image: Tensor) -> Image.Image:
    """A uint8 image (3, H, W) as a Pillow image."""
    return Image.fromarray(image.movedim(0, -1).contiguous().numpy())


def _tile(image: Tensor) -> Image.Image:
    pil = to_pil(image)
    scale = max(1, TILE // max(pil.size))
    return pil.resize((pil.width * scale, pil.height * scale), Image.Resampling.NEAREST)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
