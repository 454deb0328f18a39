"""The command ``distillkit sweep``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, RecipeArgument
from distillkit.cli.exit_codes import ExitCode
from distillkit.errors import DistillkitError


class Executor(StrEnum):
    """Where submitit starts jobs."""

    slurm = "slurm"
    local = "local"


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
    executor: Annotated[
        Executor | None,
        typer.Option(
            help="Make every run a job of submitit: on a Slurm cluster, or all at once on this "
            "machine; by default one after the other in this process."
        ),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(
            "--job",
            metavar="KEY=VALUE",
            help="Give the jobs a parameter of submitit, such as gpus_per_node=1. Repeatable.",
        ),
    ] = None,
) -> None:
    """Run a recipe at every point of a grid.

    A table shows all runs that are finished. The same command again skips these and resumes the
    others.
    """
    from distillkit.runs.sweep import plan_sweep, run_in_turn, run_sweep
    from distillkit.runs.sweep_jobs import JobExecutor

    folder = out or Path("sweeps") / Path(recipe).stem
    if job and not executor:
        raise DistillkitError("--job - is for --executor slurm or local")
    runs = plan_sweep(recipe, grid, overrides or (), folder)
    make = JobExecutor(executor, job or (), folder / "jobs") if executor else run_in_turn
    failures = run_sweep(runs, folder, make)
    typer.echo(f"done: {folder / 'summary.md'}")
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    if failures:
        raise typer.Exit(ExitCode.PARTLY_DONE)
