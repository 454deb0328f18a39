"""Print what start-up, tiles, folders, bfloat16, steps and an evaluation cost on this machine.

    python benchmarks/table.py [--model NAME] [--side 192] [--rounds 3] [--files 5000] [--no-start]

Each row compares two ways to do the same, by CPU seconds: in turn, the fastest of the rounds, in
this process. Only what starts a command has processes of its own. The model is a registered one of
the size of your student; a new LoRA adapter stands for stage 2. Steps and evaluation are those of
``mini/paper_sr4x``. One thread, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distillkit import DistillkitError, Restorer, load_recipe, prepare_stages
from distillkit.adapters import add_adapter
from distillkit.data.folder_index import load_folder
from distillkit.evaluation.measuring import measure
from distillkit.files.images import to_uint8
from distillkit.inference.student import Student
from distillkit.metrics.base import Metric, from_uint8
from distillkit.metrics.learned import stlpips
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.runs.evaluate import evaluate_run
from distillkit.runs.run import run_recipe
from distillkit_bench.train import StageMeasurement, measure_stage

TORCH = "import torch"
OPTIMIZER = "import torch; torch.optim.AdamW([torch.zeros(1)])"
RESTORE = "import distillkit.inference.restorer"
RUN = f"import distillkit.runs.run; {OPTIMIZER}"
RECIPE = "mini/paper_sr4x"
FIRST_STEP = f"""
import os, sys, tempfile
from distillkit.cli.main import main
from distillkit.training.loop import Trainer

Trainer.train = lambda *_: os._exit(0)
sys.argv = ["distillkit", "-q", "run", "{RECIPE}", "--out", tempfile.mkdtemp()]
main()
"""
"""The command, which ends where its first step would begin."""
IMAGES = 4
FOLDER_IMAGES = 20
CANDIDATES = 15
"""Images of one ground truth; as many as the quickstart's evaluation has."""
CROPS = 30
EVALUATED = 3
"""Images of the recipe's evaluation, and those that are measured here."""
FEW = ["stage1.steps=2", "stage2.steps=2", f"evaluation.max_images={EVALUATED}"]


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
    parser.add_argument("--side", type=int, default=192, help="of an image, input pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=5_000, help="in the folder that is indexed")
    parser.add_argument("--no-start", action="store_true", help="leave out what starts processes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| | CPU s | CPU s | ratio | |\n| --- | --- | --- | --- | --- |")
    for row in compare_all(options):
        ratio = row.other / row.base
        print(f"| {row.what} | {row.base:.3f} | {row.other:.3f} | {ratio:.3f} | {row.note} |")
        sys.stdout.flush()


def compare_all(options: argparse.Namespace) -> Iterator[Row]:
    """Make every comparison, in the order of the table."""
    rounds = options.rounds
    if not options.no_start:
        yield compare_starts("`restore` against torch alone", TORCH, RESTORE, rounds)
        yield compare_starts("`run` against torch's optimizer", OPTIMIZER, RUN, rounds)
        first = compare_starts("... and until its first step", OPTIMIZER, FIRST_STEP, 1)
        yield first._replace(note="the command, once")
    make = make_restorer_of(options.model)
    yield compare_tiles(make, options.side, rounds)
    yield compare_merging(make, options.side, rounds)
    yield compare_threads(make, options.side, rounds)
    yield compare_precisions(make, options.side, rounds)
    yield compare_references(stlpips("vgg"), options.side, rounds)
    yield compare_clocks(rounds)
    stages = measure_stages()
    yield compare_with_ceiling(stages["stage1"])
    yield compare_evaluations(stages)
    yield compare_indexing(options.files)


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


def compare_threads(make: Callable[[], Restorer], side: int, rounds: int) -> Row:
    """Compare a folder of small images by two threads with one thread, as of a share of it."""
    restorer = make()
    small = draw_image(side // 4)

    def restore_all(threads: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(FOLDER_IMAGES):
            restorer(small, 0.5)
        torch.set_num_threads(1)

    one = timed(lambda: restore_all(1))
    two = timed(lambda: restore_all(2))
    what = f"{FOLDER_IMAGES} images of {side // 4} px by two threads against one"
    return Row(what, *fastest(one, two, rounds), "what `--shard` with one thread each saves")


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


def compare_references(metric: Metric, side: int, rounds: int) -> Row:
    """Compare candidates measured with the ground truth's features computed once and for each."""
    gt = torch.from_numpy(draw_image(side)).permute(2, 0, 1)[None] / 127.5 - 1
    candidates = {str(i): to_uint8(gt * (1 - i / 100)) for i in range(CANDIDATES)}

    def each() -> dict[str, float]:
        with torch.no_grad():
            return {name: metric(from_uint8(x), gt).item() for name, x in candidates.items()}

    once = measure(metric, candidates, gt).values
    difference = max(abs(value - once[name]) for name, value in each().items())
    seconds = fastest(timed(each), timed(lambda: measure(metric, candidates, gt)), rounds)
    what = f"{CANDIDATES} images in {metric.name}, the ground truth's features once against each"
    return Row(what, *seconds, f"distances differ by at most {difference:.0e}")


def compare_clocks(rounds: int) -> Row:
    """Compare CPU seconds, which `bench` measures the ceiling by, with those of the clock."""
    a = torch.randn(1024, 1024)
    products = [timed_twice(lambda: a @ a) for _ in range(10 * rounds)]
    cpu, wall = (min(seconds) for seconds in zip(*products, strict=True))
    rates = [2 * 1024**3 / seconds / 1e9 for seconds in (cpu, wall)]
    note = "{:.0f} GFLOP/s, which `bench` calls the ceiling; {:.0f} by the clock".format(*rates)
    return Row("a product of matrices by the wall's clock against CPU seconds", cpu, wall, note)


def measure_stages() -> dict[str, StageMeasurement]:
    """Measure a few steps of both stages."""
    resolved = load_recipe(RECIPE)
    measurements = {}
    for stage in prepare_stages(resolved):
        crop = resolved.recipe.data.crop_size
        measurements[stage.name] = measure_stage(stage, crop, warmup=1, steps=4)
    return measurements


def compare_with_ceiling(stage1: StageMeasurement) -> Row:
    """Compare a step of stage 1 with its matrix products at the ceiling."""
    a = torch.randn(1024, 1024)
    product = min(timed(lambda: a @ a)() for _ in range(20))
    least = stage1.flops / (2 * 1024**3 / product)
    share = stage1.phases["optimizer"]
    note = f"{share:.1%} of the step are the optimizer and the moving average"
    return Row(
        "a step of stage 1 against its operations at the ceiling", least, stage1.cpu_ms / 1e3, note
    )


def compare_evaluations(stages: Mapping[str, StageMeasurement]) -> Row:
    """Compare the evaluation of a run with one that measures PSNR alone."""
    resolved = load_recipe(RECIPE, FEW)
    plain = load_recipe(RECIPE, [*FEW, 'evaluation.metrics=["psnr"]'])
    with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
        run_recipe(plain, Path(name))
        psnr = timed(lambda: evaluate_run(plain, Path(name)))()
        full = timed(lambda: evaluate_run(resolved, Path(name)))()
    recipe = load_recipe(RECIPE).recipe
    training = 0.0
    for config, stage in ((recipe.stage1, stages["stage1"]), (recipe.stage2, stages["stage2"])):
        training += config.steps * stage.cpu_ms / 1e3
    whole = full * CROPS / EVALUATED
    # What does not grow with the images is multiplied, too.
    note = f"with all {CROPS} images at most {whole / (whole + training):.0%} of a run"
    return Row(f"evaluation of {EVALUATED} images against PSNR alone", psnr, full, note)


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
    base_values, other_values = zip(*pairs, strict=True)
    return min(base_values), min(other_values)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Make a function that does the work and returns its CPU seconds."""

    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


def timed_twice(work: Callable[[], object]) -> tuple[float, float]:
    """Do the work; return its CPU seconds and those on the wall."""
    start = time.perf_counter()
    cpu = timed(work)()
    return cpu, time.perf_counter() - start


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
