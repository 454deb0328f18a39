"""The commands ``distillkit recipe ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import AsJson, Overrides, RecipeArgument, load_recipe, print_json
from distillkit.errors import PluginError

recipe_app = typer.Typer(
    help="List, copy, check and show recipes.", no_args_is_help=True, rich_markup_mode=None
)


@recipe_app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that the installed plugins bring."""
    from distillkit.plugins.listing import describe_recipes, recipe_table

    if as_json:
        print_json(describe_recipes())
    else:
        typer.echo(recipe_table())


@recipe_app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A plugin's recipe (see `distillkit recipe list`).")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Write this file; by default its last name, in this folder.",
        ),
    ] = None,
) -> None:
    """Copy a plugin's recipe into a file to change.

    The JSON schema of recipes is written beside it, for editors, if it is not there.

    To change a few keys only, write a recipe that extends it: extends = ["plugin/name"].
    """
    from distillkit.plugins.manager import load_plugins
    from distillkit.plugins.recipes import copy_recipe

    file = copy_recipe(name, out, load_plugins())
    _add_schema(file.parent)
    typer.echo(f"{file}; run it with: distillkit run {file}")


def _add_schema(folder: Path) -> None:
    """Write the JSON schema into a folder of recipes, unless it is there.

    Where a broken plugin has no schema, the recipes run all the same.
    """
    from distillkit.files.atomic import write_file
    from distillkit.plugins.recipes import SCHEMA
    from distillkit.recipe.json_schema import schema_text

    if (folder / SCHEMA).exists():
        return
    try:
        write_file(folder / SCHEMA, schema_text())
    except PluginError as e:
        typer.echo(f"no {SCHEMA}, for editors: {e}", err=True)


@recipe_app.command()
def validate(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Report every mistake in a recipe, without loading a weight."""
    resolved = load_recipe(recipe, overrides)
    components = resolved.components.items()
    used = ", ".join(f"{key} = {component.full_name}" for key, component in components)
    typer.echo(f"{recipe} is valid: {used}")


@recipe_app.command()
def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    origin: Annotated[
        bool,
        typer.Option(
            "--origin", help="Print one line per value, with the file and line that set it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe with all that it extends, and with every default."""
    resolved = load_recipe(recipe, overrides)
    if as_json and origin:
        print_json(resolved.origins())
    elif as_json:
        print_json(resolved.document.values)
    elif origin:
        typer.echo(resolved.with_origin())
    else:
        typer.echo(resolved.to_toml())


@recipe_app.command()
def schema() -> None:
    """Print the JSON schema of recipes.

    It has the options of every installed plugin.
    """
    from distillkit.recipe.json_schema import json_schema

    print_json(json_schema())
