"""Try everything that a GPU is for, in at most ten minutes, and write what came of it.

    benchmarks/gpu.sh [FOLDER] [--rehearse]

Each part is a process of its own with a time limit, so one that fails costs its own results only:
``FOLDER/gpu.json`` has every part's status, what it measured until then, and its last words. First
the losses of training steps and restored images are compared with those of this machine's CPU in
float32 (a GPU's optimizer is the fused one in every row); then come the steps of the paper's recipe
at its true size, with the random weights of ``fullsize.py``; then restoring with its student.
``--rehearse`` runs all parts on the CPU at toy size. The exit code is 1 where a part failed or a
result is further from the CPU's than its rounding allows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A part imports what it needs: what it cannot import is a failure of its own.
if TYPE_CHECKING:
    import numpy as np
    import torch

    from distillkit import Restorer

GIB = 2**30
SMALL = "mini/paper_sr4x"
TINY = "superres/tiny/ctsr_sr4x"
STEPS = 2
"""Steps of each stage whose losses are compared; they are made on photographs of packages."""
RESTORERS: dict[str, dict[str, Any]] = {"mini/faithful": {}, "superres/osediff": {"size": "tiny"}}
"""Models whose images are compared, with their options."""
EXACT = 1e-3
TF32 = 2e-2
MIXED = 2e-1
"""How far losses may be from the CPU's, relative to them. Those of stage 2 are small differences of
latents: bfloat16 moved them by 4 % at full size, on a CPU."""
STILL = ["stage1.learning_rate=1e-9", "stage2.learning_rate=1e-9"]
"""Steps that leave the weights as they are. In float16 the first step is skipped, as the loss scale
is too large yet; the losses of the next ones can then be compared all the same."""
GRAY_LEVELS = {"fp32": 1, "bf16": 8}
"""How far an image may be from the CPU's, at most. No such model has a pixel off by more."""

Results = Iterator[tuple[str, Any]]
"""Names and values, which are written as soon as they are there."""


@dataclass(frozen=True)
class Setup:
    """Where the parts read and write, and at which size."""

    folder: Path
    rehearse: bool

    @property
    def weights(self) -> Path:
        """The folder of ``fullsize.py``."""
        return self.folder / "weights"

    @property
    def recipe(self) -> str:
        """The recipe whose steps are measured."""
        return SMALL if self.rehearse else str(self.weights / "fullsize.toml")

    @property
    def compared(self) -> list[str]:
        """Recipes whose losses are compared: trained networks, and toys of full size's."""
        return [SMALL] if self.rehearse else [SMALL, TINY]

    @property
    def batch(self) -> list[str]:
        """Settings of every batch; of a rehearsal, one small crop."""
        return ["data.batch_size=1", *(["data.crop_size=32"] if self.rehearse else [])]

    @property
    def steps(self) -> dict[str, int]:
        """Timed steps of each stage, and those before them."""
        return {"steps": 1, "warmup": 0} if self.rehearse else {"steps": 3, "warmup": 2}

    def read(self, part: str) -> dict[str, Any]:
        """Read what a part has measured."""
        file = self.folder / f"{part}.json"
        return json.loads(file.read_text()) if file.exists() else {}


def machine(setup: Setup) -> Results:
    """Describe the device, and measure what it can do at best."""
    from distillkit.recipe.build import pick_device
    from distillkit_bench.device import describe_machine, measure_copy

    device = pick_device(None)
    yield "machine", describe_machine(device)
    yield "flops", measure_ceilings(device)
    yield "bytes_copied", measure_copy(device)


def reference(setup: Setup) -> Results:
    """Compute on the CPU, in float32, what the next parts are compared with."""
    for recipe in setup.compared:
        yield recipe, compute_losses(setup, recipe)
    yield "still", compute_losses(setup, SMALL, *STILL)
    for model in RESTORERS:
        yield model, restore_picture(model).tolist()


def precision(setup: Setup) -> Results:
    """Compare float32, what leaves the steps as they are but for rounding, bfloat16 and float16."""
    import torch

    from distillkit import DistillkitError

    torch.backends.cudnn.allow_tf32 = False
    yield from compare_losses(setup, "exact", EXACT)
    yield from compare_images(setup, "fp32")
    torch.backends.cudnn.allow_tf32 = True
    # As PyTorch comes: the convolutions of a GPU round to TF32.
    yield from compare_losses(setup, "as it comes", TF32)
    for key in ("gradient_checkpointing", "per_term_backward", "channels_last"):
        yield from compare_losses(setup, key, TF32, f"training.{key}=true")
    yield from compare_losses(setup, "bf16", MIXED, 'training.mixed_precision="bf16"')
    # Not of TINY, whose losses are too large for the loss scale that float16 begins with.
    losses = compute_losses(setup, SMALL, *STILL, 'training.mixed_precision="fp16"')
    judgement = judge_losses(setup.read("reference")["still"], losses, MIXED, skipped=1)
    yield f"losses of {SMALL}, fp16", judgement
    try:
        yield from compare_images(setup, "bf16")
    except DistillkitError as e:
        yield "images, bf16", {"left_out": str(e)}


def compiled(setup: Setup) -> Results:
    """Compare compiled blocks."""
    import torch

    # A rehearsal has them called as they are: a CPU takes minutes to compile them.
    yield "compiles", not setup.rehearse
    torch._dynamo.config.disable = setup.rehearse
    yield from compare_losses(setup, "compile", TF32, "training.compile=true")


def weights(setup: Setup) -> Results:
    """Write the recipe of full size, its random weights and its images."""
    if not setup.rehearse:
        from fullsize import write

        write(setup.weights)
    yield "recipe", setup.recipe


def train_plain(setup: Setup) -> Results:
    """Measure the plain algorithm, in float32."""
    from ratios import PLAIN, measure_baseline

    from distillkit import load_recipe

    options = Namespace(**setup.steps, breakdown=True)
    resolved = load_recipe(setup.recipe, [*PLAIN, *setup.batch])
    yield from summarize_steps(measure_baseline(resolved, options)["stages"])


def train_default(setup: Setup) -> Results:
    """Measure the engine with nothing set, in float32."""
    yield from measure_engine(setup, setup.recipe)


def train_24gb(setup: Setup) -> Results:
    """Measure the engine with ``superres/profiles/24gb``, in bfloat16."""
    # In a file, as a person would: profiles are for `extends`, not for --set.
    overlay = setup.folder / "24gb.toml"
    overlay.write_text(
        f'name = "small"\nextends = [{json.dumps(setup.recipe)}, "superres/profiles/24gb"]\n'
    )
    yield from measure_engine(setup, str(overlay))


def restore(setup: Setup) -> Results:
    """Measure restoring to 512 and to 2048 pixels with the student of full size."""
    from distillkit import DistillkitError, Restorer

    options: dict[str, Any] = {"size": "tiny"}
    sides = [16, 48]
    if not setup.rehearse:
        base = setup.weights
        options = {"folder": str(base / "base"), "checkpoint": str(base / "osediff.pkl")}
        sides = [128, 512]
    restorer = Restorer.from_model("superres/osediff", options)
    for side in sides:
        yield f"{4 * side} px, fp32", measure_restoring(restorer, side)
    try:
        restorer.compute_in_bfloat16()
    except DistillkitError as e:
        yield "bf16", {"left_out": str(e)}
        return
    for side in sides:
        yield f"{4 * side} px, bf16", measure_restoring(restorer, side)


PARTS = {
    machine: 60,
    reference: 90,
    precision: 150,
    compiled: 120,
    weights: 120,
    train_plain: 90,
    train_default: 90,
    train_24gb: 90,
    restore: 90,
}
"""What is tried, in order, and the seconds that each may take."""
LIMIT = 600
"""Seconds for all of it; a part gets no more than is left."""
PATIENCE = 10
"""A rehearsal may take so many times as long: it is no measurement, and its machine may be busy."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=os.environ.get("OUT", "gpu-results")
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at toy size")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Absolute: a recipe reads paths from where it is.
    setup = Setup(options.folder.resolve(), options.rehearse)
    setup.folder.mkdir(parents=True, exist_ok=True)
    if options.part:
        (work,) = (part for part in PARTS if part.__name__ == options.part)
        write_results(work(setup), setup.folder / f"{options.part}.json")
        return
    sys.exit(0 if run_parts(setup) else 1)


def run_parts(setup: Setup) -> bool:
    """Run every part in a process of its own, and write ``gpu.json`` after each.

    Returns:
        Whether all ended well and agree with the CPU.
    """
    report: dict[str, Any] = {"rehearsal": setup.rehearse, "parts": {}}
    patience = PATIENCE if setup.rehearse else 1
    end = time.monotonic() + patience * LIMIT
    for part, seconds in PARTS.items():
        name = part.__name__
        entry = run_part(setup, name, min(patience * seconds, end - time.monotonic()))
        report["parts"][name] = entry
        (setup.folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{entry['status']:<10}{entry['seconds']:>6.0f} s  {part.__doc__}", flush=True)
        for line in describe(entry["results"]):
            print(f"{'':<20}{line}")
    return all(entry["status"] == "ok" for entry in report["parts"].values())


def run_part(setup: Setup, name: str, limit: float) -> dict[str, Any]:
    """Run one part; never raise for what happens in it."""
    start = time.monotonic()
    environment = dict(os.environ)
    if setup.rehearse or name == "reference":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, str(setup.folder), "--part", name]
    if setup.rehearse:
        command.append("--rehearse")
    (setup.folder / f"{name}.json").unlink(missing_ok=True)
    log = setup.folder / f"{name}.log"
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command, env=environment, stdout=output, stderr=output, timeout=max(limit, 0)
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    results = setup.read(name)
    entry = {
        "status": judge(code, results),
        "seconds": round(time.monotonic() - start, 1),
        "results": {} if name == "reference" else results,
    }
    if code != 0:
        entry["last_words"] = log.read_text()[-2000:]
    return entry


def judge(code: int | None, results: Mapping[str, Any]) -> str:
    """Say how a part ended, by its exit code (None: it was stopped) and its results."""
    if code is None:
        return "timed out"
    if code:
        return "failed"
    verdicts = [value.get("agrees", True) for value in results.values() if isinstance(value, dict)]
    return "ok" if all(verdicts) else "disagrees"


def describe(results: Mapping[str, Any]) -> Iterator[str]:
    """Show results, a line for each."""
    for name, value in results.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(item)}" for key, item in value.items())
        yield f"{name}: {_short(value)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(results: Results, file: Path) -> None:
    """Write results into a file, again after each."""
    written: dict[str, Any] = {}
    for name, value in results:
        written[name] = value
        file.write_text(json.dumps(written, allow_nan=False))


def compute_losses(setup: Setup, recipe: str, *settings: str) -> list[float]:
    """Make a few steps of each stage of a recipe; return the losses of all."""
    from distillkit import load_recipe, prepare_stages

    losses: list[float] = []
    resolved = load_recipe(recipe, [*setup.batch, *settings])
    for stage in prepare_stages(resolved):
        batches = stage.open_batches(resolved.recipe.data.crop_size)
        losses += stage.train(batches, STEPS, lambda steps: None)
    return losses


def compare_losses(setup: Setup, name: str, tolerance: float, *settings: str) -> Results:
    """Compare losses with those of the CPU in float32."""
    expected = setup.read("reference")
    for recipe in setup.compared:
        losses = compute_losses(setup, recipe, *settings)
        yield f"losses of {recipe}, {name}", judge_losses(expected[recipe], losses, tolerance)


def judge_losses(
    expected: Sequence[float], losses: Sequence[float], tolerance: float, skipped: int = 0
) -> dict[str, Any]:
    """Say whether losses are those expected.

    Args:
        expected: The losses of the CPU in float32.
        losses: The losses of the same steps.
        tolerance: The largest difference, relative to the expected loss.
        skipped: How many steps may have no loss.
    """
    pairs = zip(expected, losses, strict=True)
    differences = [abs(loss - plain) / abs(plain) for plain, loss in pairs if math.isfinite(loss)]
    enough = len(differences) >= len(expected) - skipped
    return {
        "agrees": enough and max(differences) <= tolerance,
        "differ": max(differences, default=None),
        "allowed": tolerance,
        # Of JSON, which has no other word for a number that is none.
        "losses": [loss if math.isfinite(loss) else None for loss in losses],
    }


def restore_picture(model: str, in_bfloat16: bool = False) -> np.ndarray:
    """Restore a small drawn picture; uint8 (192, 192, 3)."""
    from distillkit import Restorer

    restorer = Restorer.from_model(model, RESTORERS[model])
    if in_bfloat16:
        restorer.compute_in_bfloat16()
    return restorer(draw_picture(48))


def compare_images(setup: Setup, precision: str) -> Results:
    """Compare restored images with those of the CPU in float32."""
    import numpy as np

    for model in RESTORERS:
        expected = np.array(setup.read("reference")[model])
        difference = np.abs(restore_picture(model, precision == "bf16") - expected)
        allowed = GRAY_LEVELS[precision]
        yield (
            f"image of {model}, {precision}",
            {
                "agrees": bool(difference.max() <= allowed),
                "gray_levels": int(difference.max()),
                "on_average": float(difference.mean()),
                "allowed": allowed,
            },
        )


def draw_picture(side: int) -> np.ndarray:
    """Draw waves and noise, uint8 (side, side, 3)."""
    import numpy as np

    y, x = np.mgrid[:side, :side]
    waves = 128 + 60 * np.sin(x / 5 + y / 9)
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    return (waves[..., None] + noise).clip(0, 255).astype(np.uint8)


def measure_engine(setup: Setup, recipe: str) -> Results:
    """Measure the steps of both stages as `distillkit bench` does."""
    from ratios import PLAIN

    from distillkit import load_recipe
    from distillkit_bench.recipe import measure_recipe

    resolved = load_recipe(recipe, [*PLAIN, *setup.batch])
    measurement = measure_recipe(resolved, **setup.steps, images=0)
    yield from summarize_steps(measurement["stages"])


def summarize_steps(stages: Mapping[str, Any]) -> Results:
    """Keep a step's time, peak memory, operations, and share of each measured ceiling."""
    from distillkit.recipe.build import pick_device

    ceilings = measure_ceilings(pick_device(None))
    for name, stage in stages.items():
        rate = stage["flops"] / (stage["ms"] / 1000)
        shares = {f"of_{kind}": rate / ceiling for kind, ceiling in ceilings.items()}
        yield (
            name,
            {
                "ms": stage["ms"],
                "peak_gib": stage["peak_memory"] / GIB,
                "tflop": stage["flops"] / 1e12,
                **shares,
                "losses": stage["losses"],
            },
        )


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Measure the operations a second of one large matrix product, by precision."""
    import torch

    from distillkit_bench.device import measure_matmul

    ceilings = {"fp32": measure_matmul(device, torch.float32)}
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        ceilings["tf32"] = measure_matmul(device, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = False
        ceilings["fp16"] = measure_matmul(device, torch.float16)
    ceilings["bf16"] = measure_matmul(device, torch.bfloat16)
    return ceilings


def measure_restoring(restorer: Restorer, side: int) -> dict[str, float]:
    """Measure the fastest of three calls, after one that warms up."""
    from distillkit_bench.device import read_peak_memory, reset_peak_memory, synchronize

    picture = draw_picture(side)
    restorer(picture)
    reset_peak_memory(restorer.device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        restorer(picture)
        synchronize(restorer.device)
        seconds.append(time.perf_counter() - start)
    return {
        "ms": 1000 * min(seconds),
        "megapixels_per_s": (side * restorer.scale) ** 2 / 1e6 / min(seconds),
        "peak_gib": read_peak_memory(restorer.device) / GIB,
    }


if __name__ == "__main__":
    main()
