"""The command ``distillkit run``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, RecipeArgument, load_recipe
from distillkit.errors import DistillkitError


def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write into this folder; by default runs/<recipe name>."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint in the folder.")
    ] = False,
    fork: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue another run, its folder or a checkpoint, in the new folder --out.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Make one step of each kind and a checkpoint, and evaluate one image.",
        ),
    ] = False,
) -> None:
    """Distill a student, evaluate it and write a report.

    Both stages, the export, the evaluation and the report are in one folder.
    """
    if fork is not None and (out is None or dry_run):
        raise DistillkitError(
            "--fork makes a new folder: give it by --out, and leave out --dry-run"
        )
    resolved = load_recipe(recipe, overrides)
    from distillkit.runs import run as engine

    folder = out or Path("runs") / resolved.recipe.name
    if dry_run:
        engine.dry_run(resolved, folder)
        typer.echo("dry run: every part of the recipe works")
        return
    report = engine.run_recipe(resolved, folder, resume=resume, fork=fork)
    # Of several processes, the first one speaks.
    if os.environ.get("RANK", "0") != "0":
        return
    if report is None:
        typer.echo(f"done: {folder}")
    else:
        typer.echo(f"done: {folder}; open {report}")
