"""Measure the time and memory of ``distillkit restore``.

``python benchmarks/restore.py RUN [--photo FILE] [--sizes 1500x1000,...] [OPTION ...]``

Runs the command on one photograph at several sizes, each in a process of its own, and prints its
seconds from start to end, seconds per million input pixels, and its peak resident memory against
``--gib``. RUN is a run's folder, or the name of a registered model; further options go to the
command (``--tradeoff 0,0.5,1``). A photo smaller than a size is continued by mirroring, so that it
keeps its detail. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from distillkit.errors import DistillkitError
from distillkit.files.images import decode_image

Image.MAX_IMAGE_PIXELS = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--photo", type=Path, help="default: one of scikit-image's")
    parser.add_argument(
        "--sizes",
        default="1500x1000,3000x2000,6000x4000",
        help="WIDTHxHEIGHT, ... (default: %(default)s)",
    )
    parser.add_argument(
        "--gib", type=float, default=4.0, help="memory to hold (default: %(default)g)"
    )
    arguments, options = parser.parse_known_args()
    photo = decode_image(arguments.photo or default_photo())
    print(
        f"{'input':>12}{'result':>14}{'seconds':>9}{'CPU s':>8}{'s/Mpixel':>10}{'peak GiB':>10}"
        f"   within {arguments.gib:g} GiB"
    )
    with tempfile.TemporaryDirectory() as folder:
        for width, height in (map(int, size.split("x")) for size in arguments.sizes.split(",")):
            source = Path(folder) / f"{width}x{height}.png"
            Image.fromarray(continued(photo, height, width)).save(source, compress_level=1)
            seconds, cpu, peak = measured(
                arguments.run, source, Path(folder) / f"restored_{source.name}", options
            )
            result = result_size(Path(folder))
            print(
                f"{source.stem:>12}{result:>14}{seconds:>9.1f}{cpu:>8.1f}"
                f"{seconds / (width * height / 1e6):>10.2f}{peak:>10.2f}"
                f"   {'yes' if peak <= arguments.gib else 'NO'}",
                flush=True,
            )


def default_photo() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data" / "coffee.png"


def continued(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the upper left (height, width, 3) of the photo, mirrored at its borders."""
    rows, columns = (
        np.arange(wanted) % (2 * side)
        for wanted, side in zip((height, width), photo.shape[:2], strict=True)
    )
    rows, columns = (
        np.minimum(i, 2 * side - 1 - i)
        for i, side in zip((rows, columns), photo.shape[:2], strict=True)
    )
    return photo[rows[:, None], columns]


def measured(
    run: str, source: Path, target: Path, options: list[str]
) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak resident GiB of one ``distillkit restore``.

    Raises:
        DistillkitError: the command failed.
    """
    model = ["--run" if Path(run).is_dir() else "--model", run]
    command = [
        sys.executable,
        "-m",
        "distillkit",
        "restore",
        str(source),
        "-o",
        str(target),
        *model,
        *options,
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DistillkitError(f"{' '.join(command)} - ended with {process.returncode}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def result_size(folder: Path) -> str:
    """Of the results, which are then deleted."""
    for path in folder.glob("restored_*"):
        with Image.open(path) as image:
            size = "{} x {}".format(*image.size)
        path.unlink()
    return size


if __name__ == "__main__":
    main()
