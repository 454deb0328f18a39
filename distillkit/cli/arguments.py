"""Arguments and options that several commands share, and the parsers of their values.

A value that cannot be parsed is refused by an error that names its option.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from distillkit.recipe.load import ResolvedRecipe

RECIPE_HELP = "A TOML file, or a plugin's recipe (see `distillkit recipe list`)."
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
"""The argument RECIPE, for :func:`distillkit.load_recipe`."""
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe; VALUE is TOML (stage1.steps=50). Repeatable.",
    ),
]
"""The option ``--set``, for :func:`distillkit.load_recipe`; None where it is not given."""
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Compute on cpu, cuda, cuda:1, ... By default on a GPU where there is one.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME=DIR",
        help="Show a method by its images; NAME@0.5 is its tradeoff 0.5. Repeatable.",
    ),
]
Combine = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Add linear combinations alpha A + (1 - alpha) B."),
]
Alphas = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,...", help="Use these weights in --combine; by default 0.1,0.2,...,0.9."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Compare the others with this method in pairs."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option ``--json`` of every command that prints a table; see :func:`print_json`."""


def print_json(value: Any) -> None:
    """Print plain data for programs; what JSON has no type for, such as a date, as text."""
    typer.echo(json.dumps(value, indent=2, default=str))


def load_recipe(recipe: Path | str, overrides: list[str] | None) -> ResolvedRecipe:
    """Read and check a recipe, and import the code for it only now."""
    from distillkit.recipe import load

    return load.load_recipe(recipe, overrides or ())


def parse_fractions(option: str, text: str) -> list[float]:
    """Parse numbers from 0 to 1: ``"0,0.5,1"`` -> ``[0.0, 0.5, 1.0]``."""
    problem = DistillkitError(
        f"{option} {text} - expected a number from 0 to 1, or several with commas between them"
    )
    try:
        values = [float(number) for number in text.split(",")]
    except ValueError:
        raise problem from None
    if not all(0 <= value <= 1 for value in values):
        raise problem
    return values


def parse_tradeoffs(text: str | None) -> list[float | None]:
    """Parse ``--tradeoff``; without one, ``[None]``, the student's own."""
    if text is None:
        return [None]
    return [*parse_fractions("--tradeoff", text)]


def parse_methods(texts: list[str] | None) -> dict[str, Path]:
    """Parse every ``--method``: ``["ours=outputs"]`` -> ``{"ours": Path("outputs")}``."""
    folders: dict[str, Path] = {}
    for text in texts or ():
        name, _, folder = text.partition("=")
        if not name or not folder or name in folders:
            raise DistillkitError(f"--method {text} - expected NAME=DIR, each name once")
        folders[name] = Path(folder)
    return folders


def parse_trained(texts: list[str] | None) -> dict[str, list[str]]:
    """Parse every ``--trained``: ``["ours:lpips-vgg"]`` -> ``{"ours": ["lpips-vgg"]}``."""
    metrics: dict[str, list[str]] = {}
    for text in texts or ():
        method, _, metric = text.partition(":")
        if not method or not metric:
            raise DistillkitError(f"--trained {text} - expected METHOD:METRIC, as ours:lpips-vgg")
        metrics.setdefault(method, []).append(metric)
    return metrics


def parse_pair(text: str | None) -> tuple[str, str] | None:
    """Parse ``--combine``: ``"a,b"`` -> ``("a", "b")``."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise DistillkitError(
            f"--combine {text} - expected the names of two methods with a comma between them"
        )
    return names[0], names[1]


def parse_settings(texts: list[str] | None) -> dict[str, Any]:
    """Parse every ``--set`` of a command without a recipe: ``["a.b=1"]`` -> ``{"a": {"b": 1}}``."""
    try:
        return tomllib.loads("\n".join(texts or ()))
    except tomllib.TOMLDecodeError as e:
        given = " ".join(texts or ())
        raise DistillkitError(
            f"--set {given} - not KEY=VALUE in TOML; a string needs quotes: --set 'a=\"b\"'"
        ) from e
