"""Print what start-up, tiles, merging, bfloat16 and a folder's index cost on this machine.

    python benchmarks/table.py [--model NAME] [--side 128] [--rounds 3] [--files 5000] [--no-start]

Each row compares two ways to do the same, by CPU seconds: in turn, the fastest of the rounds, in
this process. Only what starts a command has processes of its own. The model is a registered one of
the size of your student; a new LoRA adapter stands for stage 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distillkit import DistillkitError, Restorer
from distillkit.adapters import add_adapter
from distillkit.data.folder_index import load_folder
from distillkit.inference.student import Student
from distillkit.objectives.adapter_scaling import AdapterScaling

TORCH = "import torch"
OPTIMIZER = "import torch; torch.optim.AdamW([torch.zeros(1)])"
RESTORE = "import distillkit.inference.restorer"
RUN = f"import distillkit.runs.run; {OPTIMIZER}"
IMAGES = 4


class Row(NamedTuple):
    """One comparison, in CPU seconds."""

    what: str
    base: float
    other: float
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini/student")
    parser.add_argument("--side", type=int, default=128, help="of an image, input pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=5_000, help="in the folder that is indexed")
    parser.add_argument("--no-start", action="store_true", help="leave out what starts processes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| | CPU s | CPU s | ratio | |\n| --- | --- | --- | --- | --- |")
    if not options.no_start:
        print_row(compare_starts("`restore` against torch alone", TORCH, RESTORE, options.rounds))
        print_row(compare_starts("`run` against torch's optimizer", OPTIMIZER, RUN, options.rounds))
    make = make_restorer_of(options.model)
    print_row(compare_tiles(make, options.side, options.rounds))
    print_row(compare_merging(make, options.side, options.rounds))
    print_row(compare_precisions(make, options.side, options.rounds))
    print_row(compare_indexing(options.files))


def print_row(row: Row) -> None:
    ratio = row.other / row.base
    print(
        f"| {row.what} | {row.base:.3f} | {row.other:.3f} | {ratio:.3f} | {row.note} |", flush=True
    )


def make_restorer_of(name: str) -> Callable[[], Restorer]:
    """Make a function that builds the model with a new LoRA adapter as its stage 2."""

    def make() -> Restorer:
        model = Restorer.from_model(name, device="cpu").student.model
        adapter = add_adapter(model.network, "lora", rank=16)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in adapter.tensors().values():
                tensor.copy_(0.01 * torch.randn(tensor.shape, generator=generator))
        model.requires_grad_(False)
        return Restorer(Student(model, AdapterScaling(model, adapter)))

    return make


def compare_starts(what: str, base: str, other: str, rounds: int) -> Row:
    """Compare what two programs take from start to end."""
    seconds = fastest(lambda: run_program(base), lambda: run_program(other), rounds)
    return Row(what, *seconds, "imports, each in a process")


def compare_tiles(make: Callable[[], Restorer], side: int, rounds: int) -> Row:
    """Compare an image of one tile with one that is a pixel wider."""
    restorer = make()
    restorer.tile = side
    restorer.overlap = side // 8
    fits = draw_image(side)
    wider = draw_image(side + 1)
    seconds = fastest(
        timed(lambda: restorer(fits, 0.5)), timed(lambda: restorer(wider, 0.5)), rounds
    )
    in_tiles = restorer(wider, 0.5)
    restorer.tile = 4 * side
    note = f"tiles differ from the untiled image by {describe(in_tiles, restorer(wider, 0.5))}"
    return Row(f"{side + 1} px in tiles of {side} against {side} px", *seconds, note)


def compare_merging(make: Callable[[], Restorer], side: int, rounds: int) -> Row:
    """Compare merging LoRA for each small image with merging it once."""
    restorer = make()
    small = draw_image(side // 4)

    def restore_all() -> None:
        for _ in range(IMAGES):
            restorer(small, 0.5)

    def restore_all_merged() -> None:
        with restorer.merged_at(0.5):
            restore_all()

    seconds = fastest(timed(restore_all), timed(restore_all_merged), rounds)
    what = f"{IMAGES} images of {side // 4} px, merged once, against each"
    return Row(what, *seconds, "the same images")


def compare_precisions(make: Callable[[], Restorer], side: int, rounds: int) -> Row:
    """Compare float32 with bfloat16, where this machine has it."""
    exact = make()
    rounded = make()
    image = draw_image(side)
    what = "bfloat16 against float32"
    try:
        rounded.compute_in_bfloat16()
    except DistillkitError as e:
        return Row(what, float("nan"), float("nan"), str(e))
    seconds = fastest(timed(lambda: exact(image, 0.5)), timed(lambda: rounded(image, 0.5)), rounds)
    return Row(what, *seconds, describe(exact(image, 0.5), rounded(image, 0.5)))


def compare_indexing(files: int) -> Row:
    """Compare the second opening of a folder of images, which has an index, with the first."""
    with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
        folder = Path(name) / "images"
        folder.mkdir()
        for number in range(files):
            # Nothing is decoded.
            (folder / f"{number}.png").touch()
        open_folder = timed(lambda: load_folder(folder))
        return Row(f"{files} files opened again, against first", open_folder(), open_folder())


def fastest(
    base: Callable[[], float], other: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Measure two ways in turn; return the fewest seconds of each."""
    pairs = [(base(), other()) for _ in range(rounds)]
    of_base, of_other = zip(*pairs, strict=True)
    return min(of_base), min(of_other)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Make a function that does the work and returns its CPU seconds."""

    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


def run_program(code: str) -> float:
    """Run Python code in a new process; return its CPU seconds.

    Raises:
        DistillkitError: It failed.
    """
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise DistillkitError(f"{code} - ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def draw_image(side: int) -> np.ndarray:
    """Draw a picture of waves and noise, uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side]
    waves = 128 + 60 * np.sin(x / 5 + y / 9) + 30 * np.sin(x * y / 300)
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    return (waves[..., None] + noise).clip(0, 255).astype(np.uint8)


def describe(image: np.ndarray, other: np.ndarray) -> str:
    """Say how far two uint8 images are apart."""
    difference = np.abs(image.astype(int) - other)
    return f"{difference.mean():.3f} gray levels on average, {difference.max()} at most"


if __name__ == "__main__":
    main()
