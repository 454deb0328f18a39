"""The command ``distillkit fetch``."""

from __future__ import annotations

import typer

from distillkit.cli.arguments import Overrides, RecipeFile, load_recipe


def fetch(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Download the weights and datasets of a recipe.

    Interrupted downloads resume, and hashes are checked. Files that have to be put there by hand
    are named.
    """
    resolved = load_recipe(recipe, overrides)
    from distillkit.runs.preflight import fetch_all

    complete = fetch_all(resolved, typer.echo)
    if not complete:
        raise typer.Exit(1)
