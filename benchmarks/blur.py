"""Print how blurred the inputs of pairs are: which ``zoom_out`` would make them as sharp as others?

``python benchmarks/blur.py GT LQ``

Two folders with images of the same names. Of each pair it finds the Gaussian blur which, followed
by averaging blocks of pixels, makes the clean image most like its input, and prints the standard
deviations: minimum, median and maximum over the pairs, pixels of the clean image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import filter2d
from distillkit.errors import DataError
from distillkit.files.images import read_image
from distillkit_mini.degradation import gaussian_kernel

WIDTHS = torch.arange(0.3, 5.0, 0.3)
"""Standard deviations that are tried."""
BORDER = 4
"""Pixels of the input that are not compared: beyond the border the clean image is unknown."""


def find_width(gt: Tensor, lq: Tensor) -> float:
    """Return the width of the blur that explains an input best.

    Args:
        gt: The clean image, (3, H, W).
        lq: Its input, (3, H / scale, W / scale).
    """
    scale = gt.shape[-1] // lq.shape[-1]
    widest = float(WIDTHS[-1])
    errors = []
    for width in WIDTHS:
        blurred = filter2d(gt[None], gaussian_kernel(width[None], widest))
        difference = F.avg_pool2d(blurred, scale)[0] - lq
        inside = difference[:, BORDER:-BORDER, BORDER:-BORDER]
        # A camera may have exposed the two differently: a constant difference is no blur.
        errors.append(float(inside.var()))
    return float(WIDTHS[errors.index(min(errors))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gt", type=Path, metavar="GT")
    parser.add_argument("lq", type=Path, metavar="LQ")
    arguments = parser.parse_args()
    widths = []
    for file in sorted(arguments.gt.glob("*.png")):
        gt = read_image(file)
        lq = read_image(arguments.lq / file.name)
        widths.append(find_width(gt, lq))
    if not widths:
        raise DataError(f"{arguments.gt} - holds no PNG")
    values = torch.tensor(widths)
    low, middle, high = (float(values.quantile(q)) for q in (0.0, 0.5, 1.0))
    print(f"{len(widths)} pairs: {low:.1f} to {high:.1f} pixels, median {middle:.1f}")


if __name__ == "__main__":
    main()
