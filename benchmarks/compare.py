"""Compare runs that were evaluated on the same images, in pairs.

``python benchmarks/compare.py RUN OTHER_RUN ... [--tradeoff 0] [--equal]``

Prints each run's student, and its difference from that of the first run with a standard error
clustered by photograph. With ``--equal`` it prints how much more PSNR the first run's student has
than the best of each other run's tradeoffs at no greater distance, and than the best of its own
run's combinations of two methods. Runs of several seeds, joined by commas, count as one: images are
averaged over them.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from distillkit.errors import DistillkitError
from distillkit.evaluation.results import Results
from distillkit.evaluation.statistics import Estimate, standard_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN[,RUN...]")
    parser.add_argument("--tradeoff", type=float, default=0.0)
    parser.add_argument("--equal", action="store_true", help="PSNR at equal distances instead")
    arguments = parser.parse_args()
    runs = {name: read(name) for name in arguments.runs}
    first, *others = runs
    for name in others:
        if runs[name].items != runs[first].items:
            raise DistillkitError(f"{name} - was judged on other images than {first}")
    if arguments.equal:
        for curve in runs[first].combined:
            print_gaps_above(runs[first], curve)
        for name in others:
            print_gaps(runs[first], name, runs[name])
    else:
        print_differences(runs, f"student@{arguments.tradeoff:g}")


def read(names: str) -> Results:
    """Read a run, or the mean of several seeds of it."""
    files = [Path(name) / "evaluation" / "per_image.json" for name in names.split(",")]
    return Results.over_seeds([Results.from_json(file.read_text()) for file in files])


def print_differences(runs: dict[str, Results], label: str) -> None:
    first = next(iter(runs.values()))
    print(f"{'run':<32}{'metric':<16}{'mean':>9}{'difference':>22}")
    for name, results in runs.items():
        for metric in {m.name: m for m in first.metrics if m in results.metrics}:
            difference = results.values[label, metric] - first.values[label, metric]
            # Images that a metric failed on are left out.
            measured = np.isfinite(difference)
            photos = list(itertools.compress(first.photos, measured))
            difference = difference[measured]
            sem = standard_error(difference, photos) or 0.0
            paired = "" if results is first else f"{difference.mean():+.4f} ± {sem:.4f}"
            mean = results.summary(label, metric).mean
            print(f"{last_part(name):<32}{metric:<16}{mean:>9.4f}{paired:>22}")


def print_gaps(first: Results, name: str, other: Results) -> None:
    """Print the first student's PSNR minus the other's best at no greater distance."""
    others = [replace(method, name=name) for method in other.sweep()]
    values = dict(first.values)
    for method, renamed in zip(other.sweep(), others, strict=True):
        for metric in first.metrics:
            values[renamed.label, metric.name] = other.values[method.label, metric.name]
    print_gaps_above(replace(first, methods=(*first.methods, *others), values=values), name)


def print_gaps_above(results: Results, baseline: str) -> None:
    for metric in results.perceptual:
        print(f"{results.fidelity} at equal {metric.name}, above {last_part(baseline)}:")
        for gap in results.at_equal(metric.name, baseline):
            print(f"  tradeoff {gap.tradeoff:g}: {describe(gap.difference)}")


def describe(difference: Estimate | None) -> str:
    if difference is None:
        return "no tradeoff of it is as close"
    low, high = difference.interval or (np.nan, np.nan)
    return f"{difference.mean:+.3f} dB, 95 % interval {low:+.3f} to {high:+.3f}"


def last_part(names: str) -> str:
    return ",".join(Path(name).name for name in names.split(","))


if __name__ == "__main__":
    main()
