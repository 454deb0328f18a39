"""Drawn graphics with their small versions: what photographs do not teach about hard edges.

A network trained on soft inputs alone turns saturated edges, as in screenshots, into colored noise.
"""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distillkit_photo.options import GraphicsOptions

if TYPE_CHECKING:
    import datasets

Color = tuple[int, int, int]

WORDS = ("Quick", "brown", "fox", "jumps", "over", "0123456789", "OPEN", "exit", "50%", "Hotel")
SCALE = 4
SUPERSAMPLING = 2
"""Graphics are drawn this many times larger and averaged, for smooth edges."""


def graphics(options: GraphicsOptions) -> datasets.Dataset:
    """Draw the data set: columns ``image`` (size x size) and ``lq``, a quarter of it."""
    import datasets

    rng = random.Random(options.seed)
    rows: dict[str, list[dict[str, str | bytes | None]]] = {"image": [], "lq": []}
    for _ in range(options.count):
        image = draw_graphic(rng, options.size)
        rows["image"].append(_as_png(image))
        rows["lq"].append(_as_png(shrink(rng, image)))
    features = datasets.Features({name: datasets.Image(decode=False) for name in rows})
    return datasets.Dataset.from_dict(rows, features=features)


def draw_graphic(rng: random.Random, size: int) -> Image.Image:
    """Draw shapes, stripes and words in flat colors on a plain or shaded background."""
    side = size * SUPERSAMPLING
    image = _background(rng, size).resize((side, side))
    canvas = ImageDraw.Draw(image)
    marks = [_rectangle, _ellipse, _polygon, _line, _arc, _stripes, _words]
    for _ in range(rng.randrange(3, 25)):
        rng.choice(marks)(canvas, rng, side, _color(rng, saturated=0.6))
    return image.resize((size, size), Image.Resampling.BOX)


def shrink(rng: random.Random, image: Image.Image) -> Image.Image:
    """Make an image four times smaller, by any of the usual ways: one in eight aliases it."""
    ways = [*Image.Resampling, Image.Resampling.BOX, Image.Resampling.BICUBIC]
    way = rng.choice(ways)
    return image.resize((image.width // SCALE, image.height // SCALE), way)


def _color(rng: random.Random, saturated: float) -> Color:
    """Draw a color; with this probability most of its channels are at their ends."""
    levels = [0, 255, rng.randrange(256)] if rng.random() < saturated else range(256)
    return rng.choice(levels), rng.choice(levels), rng.choice(levels)


def _background(rng: random.Random, size: int) -> Image.Image:
    if rng.random() < 0.35:
        return Image.new("RGB", (size, size), _color(rng, saturated=0.5))
    corners = np.array([_color(rng, saturated=0.6) for _ in range(4)], np.uint8)
    small = Image.fromarray(corners.reshape(2, 2, 3))
    return small.resize((size, size), Image.Resampling.BILINEAR)


def _point(rng: random.Random, side: int) -> tuple[int, int]:
    return rng.randrange(side), rng.randrange(side)


def _length(rng: random.Random, side: int) -> int:
    share = rng.choice([0.02, 0.05, 0.1, 0.25, 0.5])
    return int(side * share * rng.uniform(0.5, 1.5)) + 2


def _box(rng: random.Random, side: int) -> tuple[int, int, int, int]:
    x, y = _point(rng, side)
    return x, y, x + _length(rng, side), y + _length(rng, side)


def _rectangle(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    canvas.rectangle(_box(rng, side), fill=color)


def _ellipse(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    canvas.ellipse(_box(rng, side), fill=color)


def _polygon(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    corners = [_point(rng, side) for _ in range(rng.randint(3, 6))]
    canvas.polygon(corners, fill=color)


def _line(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    points = [_point(rng, side) for _ in range(rng.randint(2, 4))]
    canvas.line(points, fill=color, width=rng.randrange(1, 20))


def _arc(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    start, end = rng.randrange(360), rng.randrange(360)
    canvas.arc(_box(rng, side), start, end, fill=color, width=rng.randrange(2, 20))


def _stripes(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    """Draw stripes as wide as their gaps, across or down."""
    left, top, right, bottom = _box(rng, side)
    period = rng.choice([6, 8, 12, 16, 24, 40])
    width = period // 2
    if rng.random() < 0.5:
        for x in range(left, right, period):
            canvas.rectangle((x, top, x + width, bottom), fill=color)
    else:
        for y in range(top, bottom, period):
            canvas.rectangle((left, y, right, y + width), fill=color)


def _words(canvas: ImageDraw.ImageDraw, rng: random.Random, side: int, color: Color) -> None:
    x, y = _point(rng, side)
    font = ImageFont.load_default(rng.choice([24, 32, 40, 64, 96, 160]))
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))
    canvas.text((x - side // 8, y), text, fill=color, font=font)


def _as_png(image: Image.Image) -> dict[str, str | bytes | None]:
    file = io.BytesIO()
    image.save(file, "png")
    return {"path": None, "bytes": file.getvalue()}
