"""What the command lines of benchmarks of a recipe have in common."""

from __future__ import annotations

import argparse


def recipe_parser(description: str | None, recipe: str) -> argparse.ArgumentParser:
    """Begin a command line: a recipe, with a default, and changes of its keys."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default=recipe)
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the recipe",
    )
    return parser
