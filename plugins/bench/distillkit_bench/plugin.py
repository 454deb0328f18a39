"""The commands ``distillkit bench`` and ``distillkit advise``. Torch is imported when they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit import ExitCode, Overrides, RecipeArgument, hookimpl

GIB = 2**30


@hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    app.command("bench")(bench)
    app.command("advise")(advise)


# Typer reads one option from each parameter.
def bench(  # noqa: PLR0913
    recipe: RecipeArgument,
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
    from distillkit import load_recipe
    from distillkit_bench.report import format_comparison, format_measurement

    # Read first: its errors are better than those of a process that measures it.
    resolved = load_recipe(recipe, overrides or ())
    results: dict[str, Any]
    if alternatives:
        from distillkit_bench.alternatives import measure_alternatives

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
        from distillkit_bench.recipe import measure_recipe

        results = measure_recipe(
            resolved, steps=steps, warmup=warmup, images=images, breakdown=breakdown
        )
        typer.echo(format_measurement(results))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")


def advise(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB that a run may take; default: what the device has"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="also run a step at the recipe's crop size, and compare")
    ] = False,
) -> None:
    """Forecast memory and time of a step; advise what to change.

    Where a step does not fit into the memory, settings that save it are tried, cheapest first.
    """
    from distillkit import load_recipe
    from distillkit_bench.advice import examine

    limit = None
    if memory is not None:
        limit = memory * GIB
    resolved = load_recipe(recipe, overrides or ())
    if not examine(resolved, limit, check=check, say=typer.echo):
        raise typer.Exit(ExitCode.CHECK_FAILED)
