"""Compare ``distillkit.jpeg``, which degradations compress with on any device, to Pillow's JPEG.

``python benchmarks/jpeg.py FOLDER``

Prints CPU milliseconds of a batch of four photographs, by both in turn, the fastest of five rounds,
and how far their images are from each other in gray levels.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit import jpeg, read_picture

QUALITIES = (40, 60, 80, 95)
SIDES = (128, 512)
ROUNDS = 5


def by_pillow(images: Tensor, quality: Tensor) -> Tensor:
    """Do what :func:`distillkit.jpeg` does by Pillow, which encodes 8 bits at whole qualities."""
    compressed = []
    for image, q in zip(images, quality, strict=True):
        file = io.BytesIO()
        pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(q))
        compressed.append(to_tensor(Image.open(file)))
    return torch.stack(compressed)


def to_tensor(picture: Image.Image) -> Tensor:
    """Return (3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def measure(compress: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return CPU milliseconds and the images."""
    started = time.process_time()
    images = compress()
    return 1000 * (time.process_time() - started), images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    files = sorted(parser.parse_args().folder.iterdir())[: len(QUALITIES)]
    pictures = [read_picture(file).convert("RGB") for file in files]
    quality = torch.tensor(QUALITIES, dtype=torch.float32)
    torch.set_num_threads(1)
    print(f"{'side':>6}{'distillkit.jpeg':>18}{'Pillow':>9}  gray levels apart: mean, largest")
    for side in SIDES:
        images = torch.stack([to_tensor(picture.resize((side, side))) for picture in pictures])
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(measure(lambda: jpeg(images, quality)))  # noqa: B023
            theirs.append(measure(lambda: by_pillow(images, quality)))  # noqa: B023
        apart = 255 * (ours[-1][1] - theirs[-1][1]).abs()
        times = [min(seconds for seconds, _ in rounds) for rounds in (ours, theirs)]
        print(f"{side:>6}{times[0]:>18.1f}{times[1]:>9.1f}  {apart.mean():.2f}, {apart.max():.0f}")


if __name__ == "__main__":
    main()
