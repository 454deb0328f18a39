"""The command ``distillkit bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit.cli.arguments import Overrides, RecipeFile, load_recipe


def bench(
    recipe: RecipeFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="timed steps of each stage")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="steps before them")] = 2,
    images: Annotated[
        int, typer.Option(min=0, help="images of the crop's size restored; not with --compare")
    ] = 5,
    look: Annotated[bool, typer.Option(help="three more steps: time by part, NFE, FLOPs")] = True,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="KEY=VALUE",
            help="measure with this set, too; several: 'a=1; b=2'; may be repeated",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="of --compare: times that all settings are measured in turn")
    ] = 1,
    json_: Annotated[
        Path | None,
        typer.Option("--json", help="a file for the results, with machine and versions"),
    ] = None,
) -> None:
    """Measure the speed of training and restoring.

    Time by part, memory, network evaluations, and FLOPs against what the machine can do.
    """
    resolved = load_recipe(recipe, overrides)
    from distillkit.bench.report import as_comparison, as_text

    found: Any
    if compare:
        from distillkit.bench.compare import compare as measure_all

        found = measure_all(
            recipe, overrides or [], compare, steps=steps, warmup=warmup, rounds=rounds, look=look
        )
        typer.echo(as_comparison(found))
    else:
        from distillkit.bench.recipe import bench as measure

        found = measure(resolved, steps=steps, warmup=warmup, images=images, look=look)
        typer.echo(as_text(found))
    if json_ is not None:
        json_.write_text(json.dumps(found, indent=2) + "\n")
