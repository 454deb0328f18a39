"""The commands ``distillkit plugins ...``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

plugins_app = typer.Typer(
    help="List what the installed plugins offer, or check one.", rich_markup_mode=None
)


@plugins_app.callback(invoke_without_command=True)
def list_plugins(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """List what the installed plugins offer."""
    if context.invoked_subcommand is not None:
        return
    from distillkit.plugins.listing import describe_plugins, plugin_table

    if as_json:
        typer.echo(json.dumps(describe_plugins(), indent=2))
    else:
        typer.echo(plugin_table())


@plugins_app.command("check")
def check_plugin(
    name: Annotated[
        str, typer.Argument(help="a plugin, or one of its models: mini, mini/faithful")
    ],
) -> None:
    """Check that a plugin keeps the contracts.

    For a broken plugin, show why it does not load.
    """
    from distillkit.testing.contract import describe_checks

    text, passed = describe_checks(name)
    typer.echo(text)
    if not passed:
        raise typer.Exit(1)
