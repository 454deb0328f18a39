"""Measure the time and memory of ``distillkit restore``.

``python benchmarks/restore.py RUN [--photo FILE] [--sizes 1500x1000,...] [OPTION ...]``

Runs the command on one photograph at several sizes, each in a process of its own, and prints its
seconds from start to end, seconds per million input pixels, and its peak resident memory against
``--gib``. RUN is a run's folder, or the name of a trained student or of a registered model; further
options go to the command (``--tradeoff 0,0.5,1``). A photo smaller than a size is continued by
mirroring, so that it keeps its detail. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from distillkit import DistillkitError, load_plugins
from distillkit.files.images import decode_image
from distillkit.plugins.trained import find_trained

Image.MAX_IMAGE_PIXELS = None
KIB_IN_GIB = 2**20


class Cost(NamedTuple):
    """What one ``distillkit restore`` took."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


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
        "--gib", type=float, default=4.0, help="memory to stay within (default: %(default)g)"
    )
    # The rest is for the command that is measured.
    options, restore_options = parser.parse_known_args()
    photo = decode_image(options.photo or find_photo())
    columns = (
        f"{'input':>12}{'result':>14}{'seconds':>9}{'CPU s':>8}{'s/Mpixel':>10}{'peak GiB':>10}"
    )
    print(f"{columns}   within {options.gib:g} GiB")
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
            folder = Path(name)
            source = folder / f"{width}x{height}.png"
            Image.fromarray(mirror_to(photo, height, width)).save(source, compress_level=1)
            target = folder / f"restored_{source.name}"
            cost = measure_restore(options.run, source, target, restore_options)
            result = read_result_size(folder)
        megapixels = width * height / 1e6
        times = f"{cost.seconds:>9.1f}{cost.cpu_seconds:>8.1f}{cost.seconds / megapixels:>10.2f}"
        fits = "yes" if cost.peak_gib <= options.gib else "NO"
        print(f"{size:>12}{result:>14}{times}{cost.peak_gib:>10.2f}   {fits}", flush=True)


def find_photo() -> Path:
    """Find a photograph that scikit-image has in its package."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "coffee.png"


def mirror_to(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the upper left (height, width, 3) of the photo, mirrored at its borders."""
    rows = _mirrored_indices(photo.shape[0], height)
    columns = _mirrored_indices(photo.shape[1], width)
    return photo[rows[:, None], columns]


def _mirrored_indices(side: int, length: int) -> np.ndarray:
    """Count 0, 1, ..., side - 1, side - 1, ..., 1, 0, 0, 1, ... up to a length."""
    indices = np.arange(length) % (2 * side)
    return np.minimum(indices, 2 * side - 1 - indices)


def measure_restore(run: str, source: Path, target: Path, options: Sequence[str]) -> Cost:
    """Measure one ``distillkit restore``.

    Raises:
        DistillkitError: The command failed.
    """
    is_student = Path(run).is_dir() or find_trained(run, load_plugins()) is not None
    model_option = "--run" if is_student else "--model"
    command = [sys.executable, "-m", "distillkit", "restore", str(source)]
    command += ["-o", str(target), model_option, run, *options]
    return measure_command(command)


def measure_command(command: Sequence[str]) -> Cost:
    """Measure a command, from its start to its end.

    Raises:
        DistillkitError: It failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DistillkitError(f"{' '.join(command)} - ended with {process.returncode}")
    # Linux counts the peak in KiB.
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / KIB_IN_GIB)


def read_result_size(folder: Path) -> str:
    """Read the size of one of the results; several tradeoffs have several."""
    path = next(folder.rglob("restored_*.png"))
    with Image.open(path) as image:
        return f"{image.width} x {image.height}"


if __name__ == "__main__":
    main()
