"""Compare runs that were evaluated on the same images, in pairs.

``python benchmarks/compare.py RUN OTHER_RUN ... [--tradeoff 0]``

Prints each run's student, and its difference from that of the first run with a standard error
clustered by photograph.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from distillkit.errors import DistillkitError
from distillkit.evaluation.results import Results
from distillkit.evaluation.statistics import standard_error


def read(run: Path) -> Results:
    return Results.from_json((run / "evaluation" / "per_image.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--tradeoff", type=float, default=0.0)
    arguments = parser.parse_args()
    first, label = read(arguments.runs[0]), f"student@{arguments.tradeoff:g}"
    print(f"{'run':<32}{'metric':<16}{'mean':>9}{'difference':>22}")
    for run in arguments.runs:
        results = read(run)
        if results.items != first.items:
            raise DistillkitError(f"{run} - was judged on other images than {arguments.runs[0]}")
        for metric in {m.name: m for m in first.metrics if m in results.metrics}:
            difference = results.values[label, metric] - first.values[label, metric]
            # Images that a metric failed on are left out.
            measured = np.isfinite(difference)
            photos = list(itertools.compress(first.photos, measured))
            difference = difference[measured]
            sem = standard_error(difference, photos) or 0.0
            paired = "" if run == arguments.runs[0] else f"{difference.mean():+.4f} ± {sem:.4f}"
            print(
                f"{run.name:<32}{metric:<16}{results.summary(label, metric).mean:>9.4f}{paired:>22}"
            )


if __name__ == "__main__":
    main()
