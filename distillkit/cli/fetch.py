"""The command ``distillkit fetch``."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit.cli.arguments import RECIPE_HELP, Overrides, load_recipe, parse_settings
from distillkit.cli.exit_codes import ExitCode
from distillkit.errors import DistillkitError


def fetch(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)] = None,
    overrides: Overrides = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Fetch the weights of this metric instead, for `distillkit compare`; --set "
            "METRIC.OPTION=VALUE sets its options. Repeatable.",
        ),
    ] = None,
) -> None:
    """Download weights and datasets of a recipe, or of a metric.

    Interrupted downloads resume, and hashes are checked. Files that have to be put there by hand
    are named.
    """
    if (recipe is None) == (metric is None):
        raise DistillkitError("give either a recipe, or --metric NAME")
    from distillkit.runs.preflight import fetch_all, fetch_metrics

    if metric is not None:
        complete = fetch_metrics(metric, parse_settings(overrides), typer.echo)
    else:
        assert recipe is not None
        complete = fetch_all(load_recipe(recipe, overrides), typer.echo)
    if not complete:
        raise typer.Exit(ExitCode.PARTLY_DONE)
