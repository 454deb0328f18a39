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
from collections import defaultdict
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from distillkit.bench.subject import Subject
from distillkit.recipe.load import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recipe", nargs="?", type=Path, default=Path("recipes/quickstart_sr4x.toml")
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
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
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into:
        work(arguments)
        return
    rounds = [
        {n: measured(n, arguments) for n in (1, arguments.processes)}
        for _ in range(arguments.rounds)
    ]
    for line in table(rounds):
        print(line)


def measured(processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """This program, as that many workers."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "found.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            str(processes),
            __file__,
        ]
        command += [str(arguments.recipe), "--steps", str(arguments.steps), "--into", str(into)]
        command += [x for s in arguments.sets for x in ("--set", s)]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(into.read_text())


def work(arguments: argparse.Namespace) -> None:
    """One of the workers; the first writes what all have found."""
    subject = Subject(load_recipe(arguments.recipe, arguments.sets))
    stage = next(subject.stages())
    own = subject.measure(
        stage, subject.recipe.data.crop_size, warmup=3, steps=arguments.steps, breakdown=False
    )
    every = gather_object([own])
    if subject.accelerator.is_main_process:
        found = {
            "images_per_s": sum(m.images_per_s for m in every),
            "cpu_ms": statistics.mean(m.cpu_ms for m in every),
            "loader_wait": max(m.loader_wait for m in every),
        }
        arguments.into.write_text(json.dumps(found))


def table(rounds: list[dict[int, dict[str, Any]]]) -> list[str]:
    """A line for each number of processes, and the ratios."""
    columns: dict[tuple[int, str], list[float]] = defaultdict(list)
    for found in rounds:
        for n, values in found.items():
            for name, value in values.items():
                columns[n, name].append(value)
    lines = [
        f"{'processes':<11}{'images/s':>10}{'least':>8}{'most':>8}{'CPU ms/step':>13}{'waiting':>9}"
    ]
    for n in rounds[0]:
        rate, cpu, wait = (columns[n, name] for name in ("images_per_s", "cpu_ms", "loader_wait"))
        line = f"{n:<11}{statistics.median(rate):>10.2f}{min(rate):>8.2f}{max(rate):>8.2f}"
        lines.append(f"{line}{statistics.median(cpu):>13.0f}{statistics.median(wait):>9.1%}")
    one, several = rounds[0]
    ratios = sorted(found[several]["images_per_s"] / found[one]["images_per_s"] for found in rounds)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    lines.append(
        f"{several} processes make {statistics.median(ratios):.2f}x the images/s of one "
        f"(rounds: {shown})"
    )
    return lines


if __name__ == "__main__":
    main()
