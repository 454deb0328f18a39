"""Print how much of the upsampler's grid is in the images of folders.

``python benchmarks/grid.py FOLDER ... [--period 4]``

The grid is the relative spread of the sharpness of an upsampler's phases
(``distillkit/objectives/grid.py``), a mean over a folder's images. Photographs have .05 to .07 at
a period of 4.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distillkit.errors import DataError
from distillkit.files.images import read_image
from distillkit.objectives.grid import grid_strength


def measure(folder: Path, period: int) -> float:
    """Return the mean grid of a folder's images."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"{folder} - holds no PNG")
    strengths = [float(grid_strength(read_image(file)[None], period)) for file in files]
    return sum(strengths) / len(strengths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--period", type=int, default=4)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        print(f"{measure(folder, arguments.period):.3f}  {folder}")


if __name__ == "__main__":
    main()
