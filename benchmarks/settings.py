"""What each setting for speed or memory buys: ``python benchmarks/settings.py [RECIPE] [--set KEY=VALUE] ...``.

One row for each, against the same recipe without it, each in a process of its own. What a CPU cannot judge (bfloat16 is emulated,
compiled code takes minutes to come) is left out there. Prints a table in Markdown.
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

from distillkit.bench.compare import measure_apart
from distillkit.recipe.load import load_recipe

CYCLE = 2
ROUNDING = 1e-4
"""Losses that differ more, relative, are those of another estimator of the objective."""
OUTPUT = ('stage1.fidelity_term="output"',)


@dataclass(frozen=True)
class Row:
    """A setting, and what it is measured against."""

    name: str
    sets: tuple[str, ...]
    base: tuple[str, ...] = ()
    """Settings of both sides."""
    gpu: bool = False
    """Whether only a GPU can judge it."""


def rows(crop: int, cache: str) -> list[Row]:
    """Every setting of the kind; ``cache`` is a folder that is not there yet."""
    kept, cycle = (f"training.cache_dir='{cache}'", "training.cache_gib=2"), (f"data.cycle={CYCLE}",)
    mix = ('stage2.target="mix"',)
    return [
        Row("training.checkpointing", ("training.checkpointing=true",)),
        Row("training.term_by_term", ("training.term_by_term=true",)),
        Row("both", ("training.checkpointing=true", "training.term_by_term=true")),
        Row('stage1.gradient = "score", weighting = "clean"', ('stage1.gradient="score"', 'stage1.weighting="clean"')),
        Row(f"stage1.decode_crop = {crop // 2} of {crop}", (f"stage1.decode_crop={crop // 2}",)),
        Row("cache_gib, data.cycle: latents, both ends of `mix`", kept, (*cycle, *mix)),
        Row("cache_gib, data.cycle: an output teacher's images", kept, (*cycle, *mix, *OUTPUT)),
        Row("training.channels_last", ("training.channels_last=true",), gpu=True),
        Row("training.precision", ('training.precision="bf16"',), gpu=True),
        Row("training.compile", ("training.compile=true",), gpu=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/tiny/ctsr_sr4x.toml"))
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="of every row")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose name has this in it")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each stage (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="times that all is measured in turn")
    parser.add_argument("--json", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    recipe, gpu = load_recipe(arguments.recipe, arguments.sets).recipe, torch.cuda.is_available()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        chosen = [r for r in rows(recipe.data.crop, folder) if not arguments.only or any(t in r.name for t in arguments.only)]
        for _ in range(arguments.rounds):
            for sets in dict.fromkeys(sets for row in chosen if gpu or not row.gpu for sets in (row.base, row.base + row.sets)):
                measured = measure_apart(arguments.recipe, [*arguments.sets, *sets], arguments.steps, warmup=CYCLE, look=False)
                found.setdefault("; ".join(sets), []).append(measured)
    print("\n".join(table(chosen, found)))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def table(chosen: list[Row], found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Time and peak memory of each row relative to its base, and whether the losses are the same."""
    yield "| setting | stage 1: faster | peak GiB | stage 2: faster | peak GiB | losses of stage 1 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in chosen:
        base, own = (found.get("; ".join(sets)) for sets in (row.base, row.base + row.sets))
        if base is None or own is None:
            yield f"| {row.name} | not judged on a CPU | | | | |"
            continue
        cells = [cell for stage in base[0]["stages"] for cell in _figures(base, own, stage)]
        pairs = zip(*(measured[0]["stages"]["stage1"]["losses"] for measured in (base, own)), strict=True)
        yield f"| {row.name} | {' | '.join(cells)} | {_apart(max(abs(a - b) / abs(a) for a, b in pairs))} |"


def _apart(difference: float) -> str:
    if difference == 0:
        return "the same"
    return f"within {difference:.0e}" if difference < ROUNDING else "others"


def _figures(base: list[dict[str, Any]], own: list[dict[str, Any]], stage: str) -> tuple[str, str]:
    key = "ms" if torch.cuda.is_available() else "cpu_ms"

    def median(measured: list[dict[str, Any]], what: str) -> float:
        return statistics.median(m["stages"][stage][what] for m in measured)

    memory = (f"{median(side, 'peak_memory') / 2**30:.2f}" for side in (base, own))
    return f"{median(base, key) / median(own, key):.2f}x", " → ".join(memory)


if __name__ == "__main__":
    main()
