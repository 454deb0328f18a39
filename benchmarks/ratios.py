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
from pathlib import Path
from typing import Any

from baseline import Baseline

from distillkit.bench.alternatives import measure_in_subprocess
from distillkit.bench.device import (
    describe_machine,
    read_peak_memory,
    release_memory,
    reset_peak_memory,
    synchronize,
)
from distillkit.bench.report import format_comparison
from distillkit.bench.train import BREAKDOWN_STEPS, make_flop_counter
from distillkit.recipe.build import pick_device
from distillkit.recipe.load import ResolvedRecipe, load_recipe
from distillkit.runs.run import open_batches

PLAIN = [
    "training.lr_decay_fraction=0.0",
    "training.lr_warmup_steps=0",
    "training.ema_decay=0.0",
    "training.gradient_accumulation_steps=1",
    "data.eval=[]",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recipe", nargs="?", type=Path, default=Path("recipes/quickstart_sr4x.toml")
    )
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="of every row"
    )
    parser.add_argument(
        "--engine",
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
    parser.add_argument("--baseline-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sets = [*PLAIN, *arguments.sets]
    if arguments.baseline_only:
        found = measure_baseline(
            load_recipe(arguments.recipe, sets),
            arguments.warmup,
            arguments.steps,
            arguments.breakdown,
        )
        arguments.baseline_only.write_text(json.dumps(found))
        return
    rows = compare(arguments.recipe, sets, arguments.engine, arguments)
    print(report(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def compare(
    recipe: Path, sets: list[str], alternatives: list[str], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Measurements by row, the baseline first."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        rows.setdefault("baseline", []).append(_baseline_apart(recipe, sets, options))
        for text in ("", *alternatives):
            own = [*sets, *(s.strip() for s in text.split(";") if s.strip())]
            found = measure_in_subprocess(
                recipe, own, options.steps, warmup=options.warmup, breakdown=options.breakdown
            )
            rows.setdefault(f"engine {text}".strip(), []).append(found)
    return rows


def report(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The table, and the largest relative difference of each row's losses from the baseline's."""
    lines = [format_comparison(rows), ""]
    plain = rows["baseline"][0]["stages"]
    for name, (found, *_) in list(rows.items())[1:]:
        for stage, measured in found["stages"].items():
            pairs = list(zip(plain[stage]["losses"], measured["losses"], strict=True))
            worst = max(abs(a - b) / abs(a) for a, b in pairs)
            lines.append(
                f"{stage}  losses differ by at most {worst:.1e} over {len(pairs)} steps  {name}"
            )
    return "\n".join(lines)


def measure_baseline(
    resolved: ResolvedRecipe, warmup: int, steps: int, breakdown: bool
) -> dict[str, Any]:
    """Measure the baseline's steps in this process, as the engine's are measured."""
    device = pick_device(None)
    plain, stages = Baseline(resolved, device), {}
    batches = open_batches(resolved, plain, 1)
    # As many as the engine makes before its stage 2.
    made = warmup + steps
    if breakdown:
        made += BREAKDOWN_STEPS
    for name in ("stage1", "stage2") if resolved.recipe.stage2.steps else ("stage1",):
        times: list[tuple[float, float]] = []
        losses: list[float] = []
        counter = make_flop_counter()
        stream = getattr(plain, name)(batches, made)
        release_memory(device)  # as the engine's measurement does before each stage
        for step in range(made):
            if step == warmup:
                reset_peak_memory(device)
            if breakdown and step == made - 1:
                counter.__enter__()
            before = time.perf_counter(), time.process_time()
            losses.append(float(sum(next(stream).values())))
            synchronize(device)
            if warmup <= step < warmup + steps:
                times.append((time.perf_counter() - before[0], time.process_time() - before[1]))
                memory = read_peak_memory(device)
        if breakdown:
            counter.__exit__(None, None, None)
        next(stream, None)  # ends the stage
        ms, cpu_ms = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        found = {
            "ms": ms,
            "cpu_ms": cpu_ms,
            "flops": counter.get_total_flops(),
            "peak_memory": memory,
            "losses": losses,
        }
        stages[name] = found
    return {"machine": describe_machine(device), "stages": stages}


def _baseline_apart(recipe: Path, sets: list[str], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        kept = Path(folder) / "baseline.json"
        command = [
            sys.executable,
            __file__,
            str(recipe),
            *(x for s in sets for x in ("--set", s)),
            "--baseline-only",
            str(kept),
        ]
        command += [
            "--steps",
            str(options.steps),
            "--warmup",
            str(options.warmup),
            *(() if options.breakdown else ("--no-breakdown",)),
        ]
        subprocess.run(command, check=True)
        return json.loads(kept.read_text())


if __name__ == "__main__":
    main()
