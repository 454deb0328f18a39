"""The command ``distillkit sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, RecipeArgument
from distillkit.cli.exit_codes import ExitCode


def sweep(
    recipe: RecipeArgument,
    grid: Annotated[
        list[str],
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2,...",
            help="Try these values of a key; several grids are multiplied. Repeatable.",
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the runs into this folder; by default sweeps/<the recipe's last name>.",
        ),
    ] = None,
) -> None:
    """Run a recipe at every point of a grid.

    A table shows all runs that are finished. The same command again skips these and resumes the
    others.
    """
    from distillkit.runs.sweep import plan_sweep, run_sweep

    folder = out or Path("sweeps") / Path(recipe).stem
    runs = plan_sweep(recipe, grid, overrides or (), folder)
    failures = run_sweep(runs, folder)
    typer.echo(f"done: {folder / 'summary.md'}")
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    if failures:
        raise typer.Exit(ExitCode.PARTLY_DONE)
