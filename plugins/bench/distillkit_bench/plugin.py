"""The commands ``distillkit bench`` and ``distillkit advise``. Torch is imported when they run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from distillkit import AsJson, ExitCode, Overrides, RecipeArgument, hookimpl, print_json

GIB = 2**30


@hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    app.command("bench")(bench)
    app.command("advise")(advise)


# Typer reads one option from each parameter.
def bench(  # noqa: PLR0913
    recipe: RecipeArgument,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Time this many steps of each stage.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Make this many steps before them.")] = 2,
    images: Annotated[
        int,
        typer.Option(
            min=0, help="Restore this many images of the crop's size; not with --compare."
        ),
    ] = 5,
    breakdown: Annotated[
        bool,
        typer.Option(help="Make three more steps, for time by phase, NFE and FLOPs."),
    ] = True,
    alternatives: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="KEY=VALUE",
            help="Measure with this set, too; several are 'a=1; b=2'. Repeatable.",
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="Measure all settings of --compare this many times in turn."),
    ] = 1,
    as_json: AsJson = False,
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
        text = format_comparison(results)
    else:
        from distillkit_bench.recipe import measure_recipe

        results = measure_recipe(
            resolved, steps=steps, warmup=warmup, images=images, breakdown=breakdown
        )
        text = format_measurement(results)
    if as_json:
        print_json(results)
    else:
        typer.echo(text)


def advise(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GIB",
            help="Let a run take this many GiB; by default what the device has.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Also make a step at the recipe's crop size, and compare."),
    ] = False,
    as_json: AsJson = False,
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
    report: list[str] = []
    say = report.append if as_json else typer.echo
    examination = examine(resolved, limit, check=check, say=say)
    if as_json:
        print_json({**examination.as_dict(), "report": "\n".join(report).splitlines()})
    if not examination.fits:
        raise typer.Exit(ExitCode.CHECK_FAILED)
