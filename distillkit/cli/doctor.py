"""The command ``distillkit doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, load_recipe


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="a TOML file: also say what a run of it takes"),
    ] = None,
    overrides: Overrides = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB that a run may take; default: what the device has"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="also run a step at the recipe's crop size, and compare")
    ] = False,
) -> None:
    """Look for problems of this machine, or of a recipe.

    Shows versions, devices and plugins; of a recipe, what is missing and what a step takes.
    """
    resolved = None
    if recipe is not None:
        resolved = load_recipe(recipe, overrides)
    from distillkit.testing.doctor import diagnose

    lines, healthy = diagnose()
    typer.echo("\n".join(lines))
    if resolved is not None:
        from distillkit.bench.advice import examine

        limit = None
        if memory is not None:
            limit = memory * 2**30
        healthy &= examine(resolved, overrides or [], limit, check=check, say=typer.echo)
    if not healthy:
        raise typer.Exit(1)
