"""Measure what each setting for speed or memory saves.

``python benchmarks/settings.py [RECIPE] [--set KEY=VALUE] ...``

One row for each, against the same recipe without it, each in a process of its own, by the fastest
step of each: other work on a machine only ever makes a step slower. Peaks are medians of the
rounds. Prints a table in Markdown. Whether bfloat16 saves time on a CPU depends on whether it
computes in it (AVX512_BF16, AMX) or only emulates it: the last line says which.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from arguments import recipe_parser

from distillkit import load_recipe
from distillkit_bench.alternatives import measure_in_subprocess

GIB = 2**30
CYCLE = 2
"""Batches that are repeated where the cache is measured; also the steps before the timed ones."""

OUTPUT_TEACHER = ('stage1.teachers.fidelity.term="output"',)
TEACHER_TARGET = ('stage2.target="teacher"',)
BF16 = ('training.mixed_precision="bf16"',)
REPEATED_BATCHES = (f"data.cycle_steps={CYCLE}",)
SCORE_ESTIMATE = ('stage1.teacher_gradient="sds"', 'stage1.score_weighting="sample"')

Measurements = Mapping[str, Sequence[Mapping[str, Any]]]
"""By settings, joined, a measurement of each round."""


@dataclass(frozen=True)
class Row:
    """A setting, and what it is measured against."""

    name: str
    settings: tuple[str, ...]
    base: tuple[str, ...] = ()
    """Settings of both sides."""
    changes_estimate: bool = False
    """Whether it changes how the objective is estimated, so that losses cannot be compared."""

    @property
    def both(self) -> tuple[str, ...]:
        """The settings of the side that has the setting."""
        return self.base + self.settings


def list_rows(crop: int, cache_dir: str) -> list[Row]:
    """List the settings that save time or memory.

    Args:
        crop: Side of the recipe's crop.
        cache_dir: A folder for the feature cache, which does not exist yet.
    """
    cache = (f"training.cache_dir='{cache_dir}'", "training.cache_gib=2")
    checkpointing = "training.gradient_checkpointing=true"
    per_term = "training.per_term_backward=true"
    latents = REPEATED_BATCHES + TEACHER_TARGET
    return [
        Row("training.gradient_checkpointing", (checkpointing,)),
        Row("training.per_term_backward", (per_term,)),
        Row("both", (checkpointing, per_term)),
        Row(
            'stage1.teacher_gradient = "sds", score_weighting = "sample"',
            SCORE_ESTIMATE,
            changes_estimate=True,
        ),
        Row(
            f"stage1.decode_crop_size = {crop // 2} of {crop}",
            (f"stage1.decode_crop_size={crop // 2}",),
            changes_estimate=True,
        ),
        Row("cache_gib, data.cycle_steps: latents, both ends of `teacher`", cache, latents),
        Row(
            "cache_gib, data.cycle_steps: an output teacher's images",
            cache,
            latents + OUTPUT_TEACHER,
        ),
        Row('training.mixed_precision = "bf16"', BF16),
        Row("... and recast_weights", ("training.recast_weights=true",), BF16),
        Row("training.channels_last", ("training.channels_last=true",)),
        Row("training.compile", ("training.compile=true",)),
    ]


def main() -> None:
    options = parse_options()
    recipe = load_recipe(options.recipe, options.overrides).recipe
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        rows = list_rows(recipe.data.crop_size, folder)
        if options.only:
            rows = [row for row in rows if any(text in row.name for text in options.only)]
        measurements = measure_rows(rows, options)
    for line in format_table(rows, measurements):
        print(line)
    print()
    print(describe_bf16())
    if options.json:
        options.json.write_text(json.dumps(measurements, indent=2) + "\n")


def parse_options() -> argparse.Namespace:
    parser = recipe_parser(__doc__, "superres/tiny/ctsr_sr4x")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="rows whose name has this in it"
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="timed steps of each stage (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="times that all is measured in turn")
    parser.add_argument("--json", type=Path, help="a file for the results")
    return parser.parse_args()


def measure_rows(
    rows: Sequence[Row], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Measure both sides of every row once a round; a side that rows share, once."""
    sides: list[tuple[str, ...]] = []
    for row in rows:
        sides += [row.base, row.both]
    measurements: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for settings in dict.fromkeys(sides):
            measurement = measure_in_subprocess(
                options.recipe,
                [*options.overrides, *settings],
                options.steps,
                warmup=CYCLE,
                breakdown=False,
            )
            measurements.setdefault("; ".join(settings), []).append(measurement)
    return measurements


def format_table(rows: Sequence[Row], measurements: Measurements) -> Iterator[str]:
    """Format each row's time and peak memory relative to its base, and compare the losses."""
    yield (
        "| setting | stage 1: faster | peak GiB | stage 2: faster | peak GiB | losses of stage 1 |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        base = measurements["; ".join(row.base)]
        both = measurements["; ".join(row.both)]
        cells = [row.name]
        for stage in base[0]["stages"]:
            speedup = _fastest_step(base, stage) / _fastest_step(both, stage)
            peaks = f"{_median_peak(base, stage):.2f} → {_median_peak(both, stage):.2f}"
            cells += [f"{speedup:.2f}x", peaks]
        cells.append(_compare_losses(row, base[0], both[0]))
        yield f"| {' | '.join(cells)} |"


def describe_bf16() -> str:
    """Say whether this machine computes in bfloat16."""
    if torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        computes = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    verb = "computed in" if computes else "emulated"
    return f"bfloat16 is {verb} by this machine"


def _fastest_step(side: Sequence[Mapping[str, Any]], stage: str) -> float:
    return min(min(measurement["stages"][stage]["ms_all"]) for measurement in side)


def _median_peak(side: Sequence[Mapping[str, Any]], stage: str) -> float:
    """Take the median peak of a stage, in GiB."""
    peaks = [measurement["stages"][stage]["peak_memory"] for measurement in side]
    return statistics.median(peaks) / GIB


def _compare_losses(row: Row, base: Mapping[str, Any], both: Mapping[str, Any]) -> str:
    if row.changes_estimate:
        return "another estimate"
    base_losses = base["stages"]["stage1"]["losses"]
    both_losses = both["stages"]["stage1"]["losses"]
    largest = max(abs(a - b) / abs(a) for a, b in zip(base_losses, both_losses, strict=True))
    if largest == 0:
        return "the same"
    return f"within {largest:.0e}"


if __name__ == "__main__":
    main()
