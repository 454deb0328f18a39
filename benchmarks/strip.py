"""Draw the pictures of the README and of distillkit-photo: photographs, restored.

``python benchmarks/strip.py docs/photo4x.jpg``
``python benchmarks/strip.py docs/relight.jpg --run photo/relight``

The photographs are of ``mini/photos``, its test split, which no student saw. What is restored is
the square in the middle of each: halved, so that it is sharp, and enlarged by a student that
enlarges; darkened and restored by another one.

With ``--pairs``, what is restored are pairs that ``benchmarks/pairs.py`` unpacked, beside their
ground truth:

``distillkit degrade photo/quickstart -o pairs --split test``
``python benchmarks/pairs.py pairs images``
``python benchmarks/strip.py docs/quickstart_comparison.jpg --run runs/quickstart
--tradeoffs 0,0.4,1 --pairs images 0007 0011 0017``
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import distillkit_mini
from distillkit import Restorer
from distillkit_lowlight.degradation import LowLight
from distillkit_lowlight.options import LowLightOptions

PHOTOGRAPHS = ["red_panda", "himeji_castle", "citrus_fruits"]
SIDE = 320
"""Of a restored square of the packaged photographs, in pixels."""
GAP = 4
HEADING = 26
"""Pixels above the first row, for the labels."""

Row = dict[str, Image.Image]
"""The images of a photograph by their labels."""


def read_middle(name: str, scale: int) -> Image.Image:
    """Cut the square in the middle out of a photograph, to be enlarged by ``scale``."""
    folder = Path(distillkit_mini.__file__).parent / "photographs" / "test"
    photograph = Image.open(folder / f"{name}.jpg").convert("RGB")
    if scale > 1:
        photograph = photograph.reduce(2)
    side = SIDE // scale
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    return photograph.crop((left, top, left + side, top + side))


def to_pixels(image: Image.Image) -> Tensor:
    """Turn an image into (3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def to_image(pixels: Tensor) -> Image.Image:
    """Turn (3, h, w) in [0, 1] into an image."""
    levels = (pixels.clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def darken(pixels: Tensor, seed: int) -> Tensor:
    """Darken a photograph, (3, h, w) in [0, 1]."""
    options = LowLightOptions(gamma=(1.2, 2.3), exposure=(0.1, 0.6))
    generator = torch.Generator().manual_seed(seed)
    return LowLight(options)(pixels[None] * 2 - 1, generator)[0] / 2 + 0.5


def packaged_rows(restorer: Restorer, tradeoffs: list[float]) -> Iterator[Row]:
    """Yield of each packaged photograph the input and the student's images."""
    for seed, name in enumerate(PHOTOGRAPHS):
        pixels = to_pixels(read_middle(name, restorer.scale))
        if restorer.scale == 1:
            pixels = darken(pixels, seed)
        yield restore(restorer, pixels, tradeoffs)


def pair_rows(
    restorer: Restorer, tradeoffs: list[float], folder: Path, names: list[str]
) -> Iterator[Row]:
    """Yield of each pair the input, the student's images and the ground truth."""
    for name in names:
        lq, gt = (Image.open(folder / kind / f"{name}.png").convert("RGB") for kind in ("lq", "gt"))
        yield {**restore(restorer, to_pixels(lq), tradeoffs), "ground truth": gt}


def restore(restorer: Restorer, pixels: Tensor, tradeoffs: list[float]) -> Row:
    """Give the input, as large as the restored images, and the student's image at each tradeoff."""
    restored = [to_image(image) for image in restorer(pixels, tradeoffs)]
    shown = to_image(pixels).resize(restored[0].size, Image.Resampling.BICUBIC)
    labels = [f"tradeoff {tradeoff:g}" for tradeoff in tradeoffs]
    return {
        "input" if restorer.scale == 1 else "input, bicubic": shown,
        **dict(zip(labels, restored, strict=True)),
    }


def draw(rows: list[Row]) -> Image.Image:
    """Draw a row of images for each photograph, below their labels; all have one size."""
    labels = list(rows[0])
    width, height = rows[0][labels[0]].size
    across, down = width + GAP, height + GAP
    size = (len(labels) * across - GAP, HEADING + len(rows) * down - GAP)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for column, label in enumerate(labels):
        pen.text((column * across + 2, 4), label, "black", ImageFont.load_default(15))
        for row, images in enumerate(rows):
            picture.paste(images[label], (column * across, HEADING + row * down))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, metavar="FILE")
    parser.add_argument("--run", default="photo/photo4x")
    parser.add_argument("--tradeoffs", default="0,0.5,1")
    parser.add_argument("--pairs", nargs="+", metavar=("FOLDER", "NAME"))
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained(arguments.run)
    tradeoffs = [float(tradeoff) for tradeoff in arguments.tradeoffs.split(",")]
    if arguments.pairs:
        folder, *names = arguments.pairs
        rows = pair_rows(restorer, tradeoffs, Path(folder), names)
    else:
        rows = packaged_rows(restorer, tradeoffs)
    draw(list(rows)).save(arguments.picture, quality=92)


if __name__ == "__main__":
    main()
