"""Measure how long training steps wait for their batches while a device computes.

    python benchmarks/loader.py [RECIPE] [--set KEY=VALUE] [--pause 100] [--size 1536x1344]

A step is a pause: the CPU is free meanwhile, as beside a GPU. One thread prepares batches. The
training images are replaced by photographs of the plugin ``mini``, mirrored to ``--size``, once as
JPEG and once as PNG files; every one is decoded each time, as in a data set too large for memory.

Prints the share of time that steps waited (``loader_wait`` in a run's ``metrics.jsonl``), CPU
milliseconds of preparing a batch, and those of degrading it. The device degrades: where it is a
GPU, the last column costs the CPU nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from arguments import recipe_parser
from PIL import Image
from restore import mirror_to

from distillkit import load_recipe
from distillkit.data.batches import TrainingBatches
from distillkit.data.degradation import Degradation
from distillkit.data.seeds import keyed_generator
from distillkit.recipe.build import build
from distillkit.runs.run import open_batches
from distillkit_mini.photos import find_photos

WARMUP = 3
"""Steps before the measured ones."""
DEGRADED = 20
"""Batches that are degraded."""


class Feed(NamedTuple):
    """What feeding a step costs."""

    wait: float
    """Share of the time that steps waited."""
    batch_ms: float
    """CPU milliseconds of preparing a batch."""
    degradation_ms: float
    """CPU milliseconds of degrading a batch."""


def main() -> None:
    parser = recipe_parser(__doc__, "superres/ctsr_sr4x")
    parser.add_argument("--pause", type=float, default=100, help="milliseconds of a step")
    parser.add_argument("--steps", type=int, default=60, help="measured steps")
    parser.add_argument("--size", default="1536x1344", help="of a photograph, pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, options.size.split("x"))
    print(f"{'files':<8}{'waiting':>9}{'batch, CPU ms':>16}{'degradation, CPU ms':>22}")
    for suffix in ("jpg", "png"):
        with tempfile.TemporaryDirectory(prefix="distillkit-") as name:
            folder = Path(name)
            write_photos(folder, suffix, height, width)
            feed = measure_feed(
                options.recipe, options.overrides, folder, options.steps, options.pause / 1000
            )
        costs = f"{feed.batch_ms:>16.0f}{feed.degradation_ms:>22.0f}"
        print(f"{suffix:<8}{feed.wait:>9.1%}{costs}", flush=True)


def write_photos(folder: Path, suffix: str, height: int, width: int) -> None:
    """Write the training photographs of ``mini``, mirrored to one size."""
    for number, path in enumerate(find_photos("train")):
        photo = np.asarray(Image.open(path).convert("RGB"))
        picture = Image.fromarray(mirror_to(photo, height, width))
        picture.save(folder / f"{number}.{suffix}", quality=95)


def measure_feed(
    recipe: str, overrides: Sequence[str], folder: Path, steps: int, pause: float
) -> Feed:
    """Measure what a recipe's batches cost, with the images of a folder as its training images.

    Args:
        recipe: Its name or file; it has a degradation.
        overrides: Changes of its keys.
        folder: The images.
        steps: Measured steps.
        pause: Seconds of a step.
    """
    images = f'data.train=[{{imagefolder="{folder}"}}]'
    resolved = load_recipe(recipe, [*overrides, images, "data.image_cache_mb=0"])
    assert resolved.degradation is not None, "a recipe with a degradation"
    degradation = build(resolved.degradation, "cpu")
    batches = open_batches(resolved, degradation.scale, 1)
    wait, batch_ms = measure_batches(batches, steps, pause)
    return Feed(wait, batch_ms, measure_degradation(degradation, batches))


def measure_batches(batches: TrainingBatches, steps: int, pause: float) -> tuple[float, float]:
    """Take batches with a pause after each.

    Returns:
        The share of time waited, and CPU milliseconds of a batch.
    """
    stream = batches.iterate("stage1", 0, WARMUP + steps, range(1))
    for _ in islice(stream, WARMUP):
        time.sleep(pause)
    start = time.perf_counter()
    cpu = time.process_time()
    waited = batches.wait_seconds
    for _ in stream:
        time.sleep(pause)
    seconds = time.perf_counter() - start
    batch_ms = 1000 * (time.process_time() - cpu) / steps
    return (batches.wait_seconds - waited) / seconds, batch_ms


def measure_degradation(degradation: Degradation, batches: TrainingBatches) -> float:
    """Return the median CPU milliseconds of degrading one of the batches."""
    times = []
    for step in range(DEGRADED):
        gt = batches.batch("stage1", step).gt
        start = time.process_time()
        degradation(gt, keyed_generator(step))
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
