"""Compare the engine with algorithm 1 written plainly, in time, memory and losses.

``python benchmarks/ratios.py RECIPE [--engine 'KEY=VALUE; ...'] ...``

Three kinds of rows, each a process of its own, one after the other: the baseline of
``baseline.py``; the engine with the same settings, whose losses have to be the same; the engine
with each of the settings given by ``--engine``. Prints milliseconds per step, peak memory, their
ratios to the baseline's, and by how much the engine's losses differ. The settings of ``--set`` hold
for all rows; learning-rate schedule, moving average and accumulation are switched off, since the
baseline has none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from arguments import recipe_parser
from baseline import Baseline, Terms

from distillkit import ResolvedRecipe, load_recipe
from distillkit.recipe.build import pick_device
from distillkit.runs.run import open_batches
from distillkit_bench.alternatives import measure_in_subprocess
from distillkit_bench.device import (
    describe_machine,
    read_peak_memory,
    release_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit_bench.report import format_comparison
from distillkit_bench.train import BREAKDOWN_STEPS, make_flop_counter

BASELINE = "baseline"
"""The name of the first row."""
PLAIN = [
    "training.lr_decay_fraction=0.0",
    "training.lr_warmup_steps=0",
    "training.ema_decay=0.0",
    "training.gradient_accumulation_steps=1",
    "data.eval=[]",
]

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""By row, a measurement of each round, as ``distillkit bench --json`` writes them."""


def main() -> None:
    options = parse_options()
    overrides = [*PLAIN, *options.overrides]
    if options.baseline_results:
        resolved = load_recipe(options.recipe, overrides)
        results: Any = measure_baseline(resolved, options)
        options.baseline_results.write_text(json.dumps(results))
        return
    rows = measure_rows(overrides, options)
    print(format_comparison(rows))
    print()
    for line in compare_losses(rows):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def parse_options() -> argparse.Namespace:
    parser = recipe_parser(__doc__, "mini/paper_sr4x")
    parser.add_argument(
        "--engine",
        dest="alternatives",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="one more row; several with ';' between",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="timed steps of each stage (default: %(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=1, help="times that all rows are measured in turn"
    )
    parser.add_argument(
        "--no-breakdown",
        dest="breakdown",
        action="store_false",
        help="leave out three more steps that count FLOPs",
    )
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument("--baseline-results", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_rows(
    overrides: Sequence[str], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Measure every row once a round, the baseline first."""
    settings_of_rows = {"engine": list(overrides)}
    for alternative in options.alternatives:
        settings = [setting.strip() for setting in alternative.split(";")]
        settings_of_rows[f"engine {alternative}"] = [*overrides, *settings]
    rows: dict[str, list[dict[str, Any]]] = {BASELINE: []}
    for _ in range(options.rounds):
        rows[BASELINE].append(_measure_baseline_in_subprocess(overrides, options))
        for name, settings in settings_of_rows.items():
            measurement = measure_in_subprocess(
                options.recipe,
                settings,
                options.steps,
                warmup=options.warmup,
                breakdown=options.breakdown,
            )
            rows.setdefault(name, []).append(measurement)
    return rows


def compare_losses(rows: Rows) -> Iterator[str]:
    """Say how far the losses of each row are from the baseline's, relative to them."""
    reference = rows[BASELINE][0]["stages"]
    for name, row in rows.items():
        if name == BASELINE:
            continue
        for stage, measurement in row[0]["stages"].items():
            pairs = list(zip(reference[stage]["losses"], measurement["losses"], strict=True))
            largest = max(abs(plain - loss) / abs(plain) for plain, loss in pairs)
            yield f"{stage}  losses differ by at most {largest:.1e} over {len(pairs)} steps  {name}"


def measure_baseline(resolved: ResolvedRecipe, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the baseline's steps in this process, as the engine's are measured."""
    device = pick_device(None)
    baseline = Baseline(resolved, device)
    batches = open_batches(resolved, baseline.student.scale, 1)
    stages = [baseline.stage1]
    if resolved.recipe.stage2.steps:
        stages.append(baseline.stage2)
    # As many as the engine makes before its stage 2.
    steps = options.warmup + options.steps
    if options.breakdown:
        steps += BREAKDOWN_STEPS
    measurements = {}
    for stage in stages:
        measurements[stage.__name__] = _measure_steps(stage(batches, steps), steps, options, device)
    return {"machine": describe_machine(device), "stages": measurements}


def _measure_steps(
    stage: Iterator[Terms], steps: int, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Measure a stage of the baseline.

    Args:
        stage: Makes a step whenever it is asked for the next terms.
        steps: How many it makes.
        options: The options of the command line.
        device: Where the models are.
    """
    timed = range(options.warmup, options.warmup + options.steps)
    counter = make_flop_counter()
    seconds = []
    cpu_seconds = []
    losses = []
    # As the engine's measurement does before each stage.
    release_memory(device)
    for step in range(steps):
        if step == timed.start:
            reset_peak_memory(device)
        counts_flops = options.breakdown and step == steps - 1
        start = time.perf_counter()
        cpu_start = time.process_time()
        with counter if counts_flops else nullcontext():
            losses.append(float(sum(next(stage).values())))
        synchronize(device)
        if step in timed:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
            peak_memory = read_peak_memory(device)
    # The stage's end, where it merges its adapter.
    next(stage, None)
    return {
        "ms": 1000 * statistics.median(seconds),
        "cpu_ms": 1000 * statistics.median(cpu_seconds),
        "flops": counter.get_total_flops(),
        "peak_memory": peak_memory,
        "losses": losses,
    }


def _measure_baseline_in_subprocess(
    overrides: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        results = Path(folder) / "baseline.json"
        command = [sys.executable, __file__, str(options.recipe)]
        for override in overrides:
            command += ["--set", override]
        command += ["--steps", str(options.steps), "--warmup", str(options.warmup)]
        command += ["--baseline-results", str(results)]
        if not options.breakdown:
            command.append("--no-breakdown")
        subprocess.run(command, check=True)
        return json.loads(results.read_text())


if __name__ == "__main__":
    main()
