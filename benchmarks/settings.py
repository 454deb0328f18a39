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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillkit import load_recipe
from distillkit_bench.alternatives import measure_in_subprocess

CYCLE = 2
OUTPUT = ('stage1.teachers.fidelity.term="output"',)


@dataclass(frozen=True)
class Row:
    """A setting, and what it is measured against."""

    name: str
    sets: tuple[str, ...]
    base: tuple[str, ...] = ()
    """Settings of both sides."""
    estimates: bool = False
    """Whether it changes how the objective is estimated, so that losses cannot be compared."""


def rows(crop: int, cache: str) -> list[Row]:
    """Every setting of the kind; ``cache`` is a folder that is not there yet."""
    kept, cycle = (
        (f"training.cache_dir='{cache}'", "training.cache_gib=2"),
        (f"data.cycle_steps={CYCLE}",),
    )
    bf16 = ('training.mixed_precision="bf16"',)
    mix, score = (
        ('stage2.target="teacher"',),
        ('stage1.teacher_gradient="sds"', 'stage1.score_weighting="sample"'),
    )
    return [
        Row("training.gradient_checkpointing", ("training.gradient_checkpointing=true",)),
        Row("training.per_term_backward", ("training.per_term_backward=true",)),
        Row("both", ("training.gradient_checkpointing=true", "training.per_term_backward=true")),
        Row('stage1.teacher_gradient = "sds", score_weighting = "sample"', score, estimates=True),
        Row(
            f"stage1.decode_crop_size = {crop // 2} of {crop}",
            (f"stage1.decode_crop_size={crop // 2}",),
            estimates=True,
        ),
        Row("cache_gib, data.cycle_steps: latents, both ends of `teacher`", kept, (*cycle, *mix)),
        Row(
            "cache_gib, data.cycle_steps: an output teacher's images", kept, (*cycle, *mix, *OUTPUT)
        ),
        Row('training.mixed_precision = "bf16"', bf16),
        Row("... and recast_weights", ("training.recast_weights=true",), bf16),
        Row("training.channels_last", ("training.channels_last=true",)),
        Row("training.compile", ("training.compile=true",)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/tiny/ctsr_sr4x.toml"))
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="of every row"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="rows whose name has this in it"
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="timed steps of each stage (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="times that all is measured in turn")
    parser.add_argument("--json", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.sets).recipe
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        chosen = [
            r
            for r in rows(recipe.data.crop_size, folder)
            if not arguments.only or any(t in r.name for t in arguments.only)
        ]
        for _ in range(arguments.rounds):
            for sets in dict.fromkeys(
                sets for row in chosen for sets in (row.base, row.base + row.sets)
            ):
                measured = measure_in_subprocess(
                    arguments.recipe,
                    [*arguments.sets, *sets],
                    arguments.steps,
                    warmup=CYCLE,
                    breakdown=False,
                )
                found.setdefault("; ".join(sets), []).append(measured)
    print("\n".join([*table(chosen, found), "", told_bf16()]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def table(chosen: list[Row], found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Format each row's time and peak memory relative to its base, and compare the losses."""
    yield (
        "| setting | stage 1: faster | peak GiB | stage 2: faster | peak GiB | losses of stage 1 |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in chosen:
        base, own = (found["; ".join(sets)] for sets in (row.base, row.base + row.sets))
        cells = [cell for stage in base[0]["stages"] for cell in _figures(base, own, stage)]
        pairs = zip(
            *(measured[0]["stages"]["stage1"]["losses"] for measured in (base, own)), strict=True
        )
        apart = max(abs(a - b) / abs(a) for a, b in pairs)
        told = (
            "another estimate" if row.estimates else f"within {apart:.0e}" if apart else "the same"
        )
        yield f"| {row.name} | {' | '.join(cells)} | {told} |"


def told_bf16() -> str:
    """Whether this machine computes in bfloat16."""
    if torch.cuda.is_available():
        own = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return f"bfloat16 is {'computed in' if own else 'emulated'} by this machine"


def _figures(base: list[dict[str, Any]], own: list[dict[str, Any]], stage: str) -> tuple[str, str]:
    def fastest(measured: list[dict[str, Any]]) -> float:
        return min(ms for m in measured for ms in m["stages"][stage]["ms_all"])

    peaks = (
        statistics.median(m["stages"][stage]["peak_memory"] for m in side) / 2**30
        for side in (base, own)
    )
    return f"{fastest(base) / fastest(own):.2f}x", " → ".join(f"{peak:.2f}" for peak in peaks)


if __name__ == "__main__":
    main()
