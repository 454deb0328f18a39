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
from collections.abc import Iterator
from pathlib import Path

from distillkit.bench.subject import Subject
from distillkit.bench.train import StageMeasurement
from distillkit.recipe.load import load_recipe

NAMES = ("no cache", "empty", "full")
STAGES = ("stage1", "stage2")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recipe", nargs="?", type=Path, default=Path("recipes/quickstart_sr4x.toml")
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--steps", type=int, default=20, help="steps of each stage (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times that all three are measured, in turn (default: %(default)s)",
    )
    arguments = parser.parse_args()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    losses: dict[str, set[tuple[float, ...]]] = defaultdict(set)
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, stage, found, device in measured(arguments, Path(folder)):
                times[name, stage].append(found.cpu_ms if device == "cpu" else found.ms)
                losses[stage].add(tuple(found.losses))
    print(f"{'':<10}" + "".join(f"{stage + ' ms/step':>18}{'faster':>8}" for stage in STAGES))
    for name in NAMES:
        medians = [
            (statistics.median(times[name, s]), statistics.median(times["no cache", s]))
            for s in STAGES
        ]
        print(f"{name:<10}" + "".join(f"{own:>18.1f}{none / own:>7.2f}x" for own, none in medians))
    print(
        "losses: "
        + ", ".join(
            f"{s} {'the same' if len(losses[s]) == 1 else 'DIFFERENT'} with and without"
            for s in STAGES
        )
    )


def measured(
    arguments: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, str, StageMeasurement, str]]:
    """Yield name, stage, measurement and type of device, three times for each stage."""
    cached = ["training.cache_gib=4", f"training.cache_dir='{folder}'"]
    for name in NAMES:
        subject = Subject(
            load_recipe(
                arguments.recipe, [*arguments.sets, *(cached if name != "no cache" else [])]
            )
        )
        crop, device = subject.recipe.data.crop_size, subject.accelerator.device.type
        for stage in subject.stages():
            yield (
                name,
                stage.name,
                subject.measure(stage, crop, warmup=1, steps=arguments.steps, breakdown=False),
                device,
            )


if __name__ == "__main__":
    main()
