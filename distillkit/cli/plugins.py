"""The commands ``distillkit plugins ...``: what the installed plugins offer, and whether they keep their contracts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

plugins_app = typer.Typer(
    help="List what the installed plugins offer, or check one of them.", rich_markup_mode=None
)


@plugins_app.callback(invoke_without_command=True)
def list_plugins(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """List what the installed plugins offer."""
    if context.invoked_subcommand is not None:
        return
    from distillkit.plugins.listing import as_dicts, as_text

    typer.echo(json.dumps(as_dicts(), indent=2) if as_json else as_text())


@plugins_app.command("check")
def check_plugin(
    name: Annotated[
        str, typer.Argument(help="a plugin, or one of its models: mini, mini/faithful")
    ],
) -> None:
    """Check a plugin against the contracts; for a broken one, show why it does not load."""
    from distillkit.testing.contract import describe_checks

    text, passed = describe_checks(name)
    typer.echo(text)
    if not passed:
        raise typer.Exit(1)
