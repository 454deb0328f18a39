"""Measure how much faster several processes train than one.

``python benchmarks/processes.py [RECIPE] [--set KEY=VALUE ...] [--steps 20] [--rounds 5]``

Trains stage 1 for some steps in one process, then in several that torchrun starts, in turn, each
process with one thread. Prints images per second (a step of several processes takes as many
batches), the milliseconds that a process computed in a step, its wait for data, and the ratio.
Quote it from a machine with a core for each process and nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from accelerate.utils import gather_object
from arguments import recipe_parser

from distillkit import load_recipe, prepare_stages
from distillkit_bench.train import measure_stage

Figures = Mapping[str, float]
"""``images_per_s`` of all processes together, ``cpu_ms`` and ``loader_wait`` of one."""


def main() -> None:
    options = parse_options()
    if options.worker_results:
        measure_as_worker(options)
        return
    rows: dict[int, list[Figures]] = {1: [], options.processes: []}
    for _ in range(options.rounds):
        for processes, figures in rows.items():
            figures.append(measure_processes(processes, options))
    for line in format_table(rows):
        print(line)
    print(format_ratio(rows, options.processes))


def parse_options() -> argparse.Namespace:
    parser = recipe_parser(__doc__, "mini/paper_sr4x")
    parser.add_argument(
        "--processes", type=int, default=2, help="compared with one (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, help="timed steps, after 3 others (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="times that both are measured, in turn (default: %(default)s)",
    )
    parser.add_argument("--worker-results", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_processes(processes: int, options: argparse.Namespace) -> Figures:
    """Run this program as that many workers of one training."""
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        results = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes), __file__, str(options.recipe)]
        command += ["--steps", str(options.steps), "--worker-results", str(results)]
        for override in options.overrides:
            command += ["--set", override]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if process.returncode:
            sys.exit(process.stderr)
        return json.loads(results.read_text())


def measure_as_worker(options: argparse.Namespace) -> None:
    """Measure as one of the processes; the first writes down the figures of all."""
    resolved = load_recipe(options.recipe, options.overrides)
    prepared = next(prepare_stages(resolved))
    crop_size = resolved.recipe.data.crop_size
    measurement = measure_stage(prepared, crop_size, warmup=3, steps=options.steps, breakdown=False)
    measurements = gather_object([measurement])
    if prepared.accelerator.is_main_process:
        figures = {
            "images_per_s": sum(m.images_per_s for m in measurements),
            "cpu_ms": statistics.mean(m.cpu_ms for m in measurements),
            "loader_wait": max(m.loader_wait for m in measurements),
        }
        options.worker_results.write_text(json.dumps(figures))


def format_table(rows: Mapping[int, Sequence[Figures]]) -> Iterator[str]:
    """Format a line for each number of processes: medians over the rounds."""
    speeds = f"{'images/s':>10}{'least':>8}{'most':>8}"
    yield f"{'processes':<11}{speeds}{'CPU ms/step':>13}{'waiting':>9}"
    for processes, rounds in rows.items():
        rates = [figures["images_per_s"] for figures in rounds]
        speeds = f"{statistics.median(rates):>10.2f}{min(rates):>8.2f}{max(rates):>8.2f}"
        cpu_ms = statistics.median(figures["cpu_ms"] for figures in rounds)
        wait = statistics.median(figures["loader_wait"] for figures in rounds)
        yield f"{processes:<11}{speeds}{cpu_ms:>13.0f}{wait:>9.1%}"


def format_ratio(rows: Mapping[int, Sequence[Figures]], processes: int) -> str:
    """Format how much more images per second several processes make than one."""
    ratios = []
    for one, several in zip(rows[1], rows[processes], strict=True):
        ratios.append(several["images_per_s"] / one["images_per_s"])
    by_round = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    return (
        f"{processes} processes make {statistics.median(ratios):.2f}x the images/s of one "
        f"(rounds: {by_round})"
    )


if __name__ == "__main__":
    main()
