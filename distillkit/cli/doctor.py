"""The command ``distillkit doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit.cli.arguments import AsJson, Overrides, load_recipe, print_json
from distillkit.cli.exit_codes import ExitCode


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe, to say also what a run of it lacks."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look for problems of this machine, or of a recipe.

    Shows versions, devices and plugins; of a recipe, which files are here and which are missing.
    """
    resolved = None
    if recipe is not None:
        resolved = load_recipe(recipe, overrides)
    from distillkit.testing.doctor import diagnose, diagnose_recipe

    found = diagnose()
    if resolved is not None:
        found += diagnose_recipe(resolved)
    problems = [finding for finding in found if finding.is_problem]
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        typer.echo("\n".join(map(str, found)))
        if not problems:
            typer.echo("all is well")
    if problems:
        raise typer.Exit(ExitCode.CHECK_FAILED)
