"""Print how much of the upsampler's grid is in the images of folders.

``python benchmarks/grid.py FOLDER ... [--period 4]``

Two numbers (``distillkit/objectives/grid.py``), means over a folder's images: the relative spread
of the sharpness of an upsampler's phases, .05 to .07 in photographs at a period of 4, and how much
more the image repeats itself at that period than at the next one, about 1 in photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distillkit.errors import DataError
from distillkit.files.images import read_image
from distillkit.objectives.grid import grid_strength, pattern_strength


def measure(folder: Path, period: int) -> tuple[float, float]:
    """Return the mean spread and the mean pattern of a folder's images."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"{folder} - holds no PNG")
    images = [read_image(file)[None] for file in files]
    spread = sum(float(grid_strength(image, period)) for image in images) / len(images)
    pattern = sum(float(pattern_strength(image, period)) for image in images) / len(images)
    return spread, pattern


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--period", type=int, default=4)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        spread, pattern = measure(folder, arguments.period)
        print(f"spread {spread:.3f}  pattern {pattern:.2f}  {folder}")


if __name__ == "__main__":
    main()
