"""The command ``distillkit bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit.cli.arguments import Overrides, RecipeFile, load_recipe


# Typer reads one option from each parameter.
def bench(  # noqa: PLR0913
    recipe: RecipeFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="timed steps of each stage")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="steps before them")] = 2,
    images: Annotated[
        int,
        typer.Option(min=0, help="images of the crop's size restored; not with --compare"),
    ] = 5,
    breakdown: Annotated[
        bool,
        typer.Option(help="three more steps: time by phase, NFE, FLOPs"),
    ] = True,
    alternatives: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="KEY=VALUE",
            help="measure with this set, too; several: 'a=1; b=2'; may be repeated",
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="of --compare: times that all settings are measured in turn"),
    ] = 1,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="a file for the results, with machine and versions"),
    ] = None,
) -> None:
    """Measure the speed of training and restoring.

    Time by phase, memory, network evaluations, and FLOPs against what the machine can do.
    """
    resolved = load_recipe(recipe, overrides)
    results: dict[str, Any]
    # Imported here: torch would delay the help of every command.
    from distillkit.bench.report import format_comparison, format_measurement

    if alternatives:
        from distillkit.bench.alternatives import measure_alternatives

        results = measure_alternatives(
            recipe,
            overrides or [],
            alternatives,
            steps=steps,
            warmup=warmup,
            rounds=rounds,
            breakdown=breakdown,
        )
        typer.echo(format_comparison(results))
    else:
        from distillkit.bench.recipe import measure_recipe

        results = measure_recipe(
            resolved, steps=steps, warmup=warmup, images=images, breakdown=breakdown
        )
        typer.echo(format_measurement(results))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
