"""The commands ``distillkit cache ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import AsJson, print_json
from distillkit.cli.exit_codes import ExitCode
from distillkit.errors import DistillkitError

cache_app = typer.Typer(
    help="List, check or prune the feature cache.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Use this cache; by default $DISTILLKIT_CACHE, else ~/.cache/distillkit.",
    ),
]


@cache_app.command("ls")
def list_cache(folder: CacheFolder = None, as_json: AsJson = False) -> None:
    """List entries, size and last use of each kind."""
    from distillkit.training.cache_maintenance import format_cache, measure_cache

    uses = measure_cache(folder)
    if as_json:
        print_json([use._asdict() for use in uses])
    else:
        typer.echo("\n".join(format_cache(uses, folder)))


@cache_app.command("verify")
def verify_cache(folder: CacheFolder = None) -> None:
    """Read the whole cache and name what is damaged.

    A run computes damaged entries again.
    """
    from distillkit.training.cache_maintenance import find_damaged

    count, damaged = find_damaged(folder)
    for path in damaged:
        typer.echo(f"damaged: {path}")
    typer.echo(f"{count - len(damaged)} of {count} entries are whole")
    if damaged:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@cache_app.command("prune")
def prune_cache(
    folder: CacheFolder = None,
    days: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for this many days.")
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove what is damaged.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
) -> None:
    """Delete entries of the cache."""
    from distillkit.training.cache_maintenance import prune, unused_for

    choices = [days is not None, damaged, everything]
    if sum(choices) != 1:
        raise DistillkitError("say what to remove: --days N, --damaged or --all")
    if days is not None:
        message = prune(folder, unused_for(days))
    elif damaged:
        message = prune(folder, lambda feature: feature.read_metadata() is None)
    else:
        message = prune(folder, lambda feature: True)
    typer.echo(message)
