"""The command ``distillkit doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, load_recipe
from distillkit.cli.exit_codes import ExitCode


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="a recipe: also say what a run of it lacks"),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Look for problems of this machine, or of a recipe.

    Shows versions, devices and plugins; of a recipe, which files are here and which are missing.
    """
    resolved = None
    if recipe is not None:
        resolved = load_recipe(recipe, overrides)
    from distillkit.testing.doctor import diagnose, diagnose_recipe

    lines, healthy = diagnose()
    if resolved is not None:
        recipe_lines, complete = diagnose_recipe(resolved)
        lines += ["", *recipe_lines]
        healthy = healthy and complete
    typer.echo("\n".join(lines))
    if not healthy:
        raise typer.Exit(ExitCode.CHECK_FAILED)
