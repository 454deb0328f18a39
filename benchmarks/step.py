"""Seconds of a training step, by part: ``python benchmarks/step.py [RECIPE] [--set KEY=VALUE ...] [--steps 20]``.

Runs both stages for a few steps in a temporary folder and prints, from the run's own ``metrics.jsonl``, the median seconds
a step, the share spent waiting for data, and the peak memory. The first logged interval warms up and is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from distillkit.provenance import peak_memory
from distillkit.recipe.load import load_recipe
from distillkit.run import run_recipe

EVERY = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/quickstart_sr4x.toml"))
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=20, help="steps of each stage (default: %(default)s)")
    arguments = parser.parse_args()
    quiet = [f"training.log_every={EVERY}", "training.trackers=[]", "training.sample_every=0", "data.eval=[]"]
    steps = [f"stage1.steps={arguments.steps}", f"stage2.steps={arguments.steps}", "training.checkpoint_every=100000"]
    with tempfile.TemporaryDirectory() as folder:
        run_recipe(load_recipe(arguments.recipe, [*quiet, *steps, *arguments.sets]), Path(folder) / "run")
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    print(f"{'stage':<8}{'ms/step':>9}{'waiting for data':>18}")
    for stage in ("stage1", "stage2"):
        measured = [line for line in lines if line["stage"] == stage][1:]
        seconds, waiting = (statistics.median(line[key] for line in measured) for key in ("seconds", "loader_wait"))
        print(f"{stage:<8}{1000 * seconds:>9.0f}{waiting:>17.1%}")
    print(f"peak memory {peak_memory() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
