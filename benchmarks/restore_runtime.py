"""Compare ``distillkit-restore`` with ``distillkit restore``.

``python benchmarks/restore_runtime.py RUN [--sizes 64x64,...] [--rounds 5]``

Exports the student of a run as ONNX, and restores the same photographs by both commands in turn.
Prints the processor seconds of each, from its start to the saved file (the least of all rounds),
their ratio, and the largest difference of the results in gray levels.
OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from restore import find_photo, measure_command, mirror_to

from distillkit.export.onnx import export_onnx
from distillkit.files.images import decode_image

HEAD = f"{'input':>12}{'runtime':>10}{'engine':>10}{'ratio':>8}{'gray levels':>13}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--sizes", default="64x64,128x128,192x192,384x352", help="WIDTHxHEIGHT, ..."
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    photo = decode_image(find_photo())
    with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
        folder = Path(name)
        export_onnx(options.run, folder / "student.onnx")
        print(HEAD)
        for size in options.sizes.split(","):
            width, height = map(int, size.split("x"))
            Image.fromarray(mirror_to(photo, height, width)).save(folder / "photo.png")
            print(f"{size:>12}{compare(options.run, folder, options.rounds)}", flush=True)


def compare(run: Path, folder: Path, rounds: int) -> str:
    """Restore ``photo.png`` of a folder by both commands; return a row of the table."""
    words = [str(folder / "photo.png"), "--overwrite", "--tradeoff", "0.3", "-o"]
    by_runtime = [sys.executable, "-m", "distillkit_runtime", *words, str(folder / "runtime.png")]
    by_runtime += ["--model", str(folder / "student.onnx")]
    by_engine = [sys.executable, "-m", "distillkit", "restore", *words, str(folder / "engine.png")]
    by_engine += ["--run", str(run), "--device", "cpu"]
    seconds_of_runtime = []
    seconds_of_engine = []
    for _ in range(rounds):
        # In turn, so that other work on the machine meets both.
        seconds_of_runtime.append(measure_command(by_runtime).cpu_seconds)
        seconds_of_engine.append(measure_command(by_engine).cpu_seconds)
    runtime = min(seconds_of_runtime)
    engine = min(seconds_of_engine)
    difference = count_levels(folder / "runtime.png", folder / "engine.png")
    return f"{runtime:>8.2f} s{engine:>8.2f} s{engine / runtime:>8.1f}{difference:>13}"


def count_levels(a: Path, b: Path) -> int:
    """Count the gray levels by which two pictures differ at most."""
    difference = np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b))
    return int(np.abs(difference).max())


if __name__ == "__main__":
    main()
