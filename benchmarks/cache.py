"""Measure what the feature cache saves.

``python benchmarks/cache.py [RECIPE] [--set KEY=VALUE ...] [--steps 20] [--rounds 3]``

Makes the first steps of both stages three times: without a cache, with an empty one, and with the
one that was filled. Prints median milliseconds per step (on a CPU those computed, which other work
on the machine does not stretch), the ratio to the first, and whether all losses were the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from arguments import recipe_parser

from distillkit import load_recipe, prepare_stages
from distillkit_bench.train import measure_stage

NO_CACHE = "no cache"
CACHES = (NO_CACHE, "empty", "full")
STAGES = ("stage1", "stage2")


def main() -> None:
    options = parse_options()
    table = CacheTable()
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
            measure_round(options, Path(folder), table)
    print(table.format())


def parse_options() -> argparse.Namespace:
    parser = recipe_parser(__doc__, "mini/paper_sr4x")
    parser.add_argument(
        "--steps", type=int, default=20, help="steps of each stage (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times that all three are measured, in turn (default: %(default)s)",
    )
    return parser.parse_args()


class CacheTable:
    """Times and losses of all rounds, by stage."""

    def __init__(self) -> None:
        self.times: dict[tuple[str, str], list[float]] = defaultdict(list)
        """Milliseconds of a step, by cache and stage."""
        self.losses: dict[str, set[tuple[float, ...]]] = defaultdict(set)

    def format(self) -> str:
        lines = [
            f"{'':<10}" + "".join(f"{stage + ' ms/step':>18}{'faster':>8}" for stage in STAGES)
        ]
        for cache in CACHES:
            line = f"{cache:<10}"
            for stage in STAGES:
                milliseconds = statistics.median(self.times[cache, stage])
                reference = statistics.median(self.times[NO_CACHE, stage])
                line += f"{milliseconds:>18.1f}{reference / milliseconds:>7.2f}x"
            lines.append(line)
        verdicts = []
        for stage in STAGES:
            verdict = "the same" if len(self.losses[stage]) == 1 else "DIFFERENT"
            verdicts.append(f"{stage} {verdict} with and without")
        lines.append(f"losses: {', '.join(verdicts)}")
        return "\n".join(lines)


def measure_round(options: argparse.Namespace, folder: Path, table: CacheTable) -> None:
    """Measure each stage with each cache; ``folder`` is that of the cache, and empty."""
    for cache in CACHES:
        overrides = list(options.overrides)
        if cache != NO_CACHE:
            overrides += ["training.cache_gib=4", f"training.cache_dir='{folder}'"]
        resolved = load_recipe(options.recipe, overrides)
        crop_size = resolved.recipe.data.crop_size
        for prepared in prepare_stages(resolved):
            measurement = measure_stage(
                prepared, crop_size, warmup=1, steps=options.steps, breakdown=False
            )
            milliseconds = measurement.ms
            if prepared.device.type == "cpu":
                milliseconds = measurement.cpu_ms
            table.times[cache, prepared.name].append(milliseconds)
            table.losses[prepared.name].add(tuple(measurement.losses))


if __name__ == "__main__":
    main()
