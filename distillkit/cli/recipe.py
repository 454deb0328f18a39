"""The commands ``distillkit recipe ...``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, RecipeFile, load_recipe

recipe_app = typer.Typer(
    help="Check a recipe, or show its values.", no_args_is_help=True, rich_markup_mode=None
)


@recipe_app.command()
def validate(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Report every mistake in a recipe, without loading a weight."""
    resolved = load_recipe(recipe, overrides)
    components = resolved.components.items()
    used = ", ".join(f"{key} = {component.full_name}" for key, component in components)
    typer.echo(f"{recipe} is valid: {used}")


@recipe_app.command()
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    origin: Annotated[
        bool,
        typer.Option("--origin", help="one line per value, with the file and line that set it"),
    ] = False,
) -> None:
    """Print a recipe with all that it extends, and with every default."""
    resolved = load_recipe(recipe, overrides)
    if origin:
        typer.echo(resolved.with_origin())
    else:
        typer.echo(resolved.to_toml())


@recipe_app.command()
def schema() -> None:
    """Print the JSON schema of recipes.

    It has the options of every installed plugin.
    """
    from distillkit.recipe.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
