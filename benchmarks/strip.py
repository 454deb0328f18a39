"""Draw the pictures of the README and of distillkit-photo: packaged photographs, restored.

``python benchmarks/strip.py docs/photo4x.jpg``
``python benchmarks/strip.py docs/relight.jpg --run photo/relight``

The photographs are of ``mini/photos``, its test split, which no student saw. What is restored is
the square in the middle of each: halved, so that it is sharp, and enlarged by a student that
enlarges; darkened and restored by another one.
"""

from __future__ import annotations

import argparse
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
TRADEOFFS = [0.0, 0.5, 1.0]
SIDE = 320
"""Of a restored square, in pixels."""
GAP = 4
HEADING = 26
"""Pixels above the first row, for the labels."""


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


def restore(restorer: Restorer, name: str, seed: int) -> list[Image.Image]:
    """Give the input, as large as the restored images, and the student's image at each tradeoff."""
    pixels = to_pixels(read_middle(name, restorer.scale))
    if restorer.scale == 1:
        pixels = darken(pixels, seed)
    shown = to_image(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return [shown, *(to_image(restored) for restored in restorer(pixels, TRADEOFFS))]


def draw(restorer: Restorer) -> Image.Image:
    """Draw a row for each photograph: its input, and its restored images."""
    labels = ["input" if restorer.scale == 1 else "input, bicubic"]
    labels += [f"tradeoff {tradeoff:g}" for tradeoff in TRADEOFFS]
    step = SIDE + GAP
    size = (len(labels) * step - GAP, HEADING + len(PHOTOGRAPHS) * step - GAP)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for column, label in enumerate(labels):
        pen.text((column * step + 2, 4), label, "black", ImageFont.load_default(15))
    for row, name in enumerate(PHOTOGRAPHS):
        for column, image in enumerate(restore(restorer, name, seed=row)):
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
