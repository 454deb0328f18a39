"""The command ``distillkit degrade``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import Overrides, RecipeArgument, load_recipe


class SplitName(StrEnum):
    """The photographs of a recipe to degrade."""

    train = "train"
    test = "test"


def degrade(
    recipe: RecipeArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Write into this new folder.")
    ],
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Take the photographs of data.train, or those of data.eval; by default both."
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Write pairs that a recipe's degradation makes.

    The folder holds parquet files of the photographs and what became of them, and a card. Recipes
    read it as a source, and `distillkit push --dataset` uploads it. Photographs are cut as
    [evaluation] says (--set evaluation.crop_size=256); the held-out pairs are those that a run
    evaluates on.
    """
    resolved = load_recipe(recipe, overrides)
    from distillkit.runs.degrade import TEST, TRAIN, write_pairs

    splits = [split.value] if split else [TRAIN, TEST]
    for line in write_pairs(resolved, output, splits):
        typer.echo(line)
    typer.echo(f"done: {output}")
