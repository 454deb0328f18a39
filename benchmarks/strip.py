"""Draw the picture with which the README begins: packaged photographs, enlarged by a student.

``python benchmarks/strip.py docs/photo4x.jpg [--run photo/photo4x]``

The photographs are of ``mini/photos``, its test split, halved so that they are sharp; no student
saw them. What is enlarged is the square of 80 px in the middle of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import distillkit_mini
from distillkit import Restorer

PHOTOGRAPHS = ["red_panda", "himeji_castle", "citrus_fruits"]
TRADEOFFS = [0.0, 0.5, 1.0]
SIDE = 80
SCALE = 4
GAP = 4
HEADING = 26
"""Pixels above the first row, for the labels."""


def read_middle(name: str) -> Image.Image:
    """Read a photograph, halve it, and cut the square in its middle out."""
    folder = Path(distillkit_mini.__file__).parent / "photographs" / "test"
    photograph = Image.open(folder / f"{name}.jpg").convert("RGB").reduce(2)
    left, top = (photograph.width - SIDE) // 2, (photograph.height - SIDE) // 2
    return photograph.crop((left, top, left + SIDE, top + SIDE))


def enlarge(restorer: Restorer, image: Image.Image) -> list[Image.Image]:
    """Enlarge a photograph bicubically, and by the student at each tradeoff."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    enlarged = [image.resize((SCALE * SIDE, SCALE * SIDE), Image.Resampling.BICUBIC)]
    for restored in restorer(pixels, TRADEOFFS):
        levels = (restored.clamp(0, 1) * 255).round().byte()
        enlarged.append(Image.fromarray(levels.permute(1, 2, 0).numpy()))
    return enlarged


def draw(restorer: Restorer) -> Image.Image:
    """Draw a row for each photograph and a column for each way to enlarge it."""
    labels = ["input, bicubic", *(f"tradeoff {tradeoff:g}" for tradeoff in TRADEOFFS)]
    step = SCALE * SIDE + GAP
    size = (len(labels) * step - GAP, HEADING + len(PHOTOGRAPHS) * step - GAP)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for column, label in enumerate(labels):
        pen.text((column * step + 2, 4), label, "black", ImageFont.load_default(15))
    for row, name in enumerate(PHOTOGRAPHS):
        for column, image in enumerate(enlarge(restorer, read_middle(name))):
            picture.paste(image, (column * step, HEADING + row * step))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, metavar="FILE")
    parser.add_argument("--run", default="photo/photo4x")
    arguments = parser.parse_args()
    draw(Restorer.from_pretrained(arguments.run)).save(arguments.picture, quality=92)


if __name__ == "__main__":
    main()
