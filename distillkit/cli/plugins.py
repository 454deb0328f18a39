"""The commands ``distillkit plugins ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.exit_codes import ExitCode
from distillkit.plugins.scaffold import KINDS

plugins_app = typer.Typer(
    help="List what plugins offer; check or begin a plugin.", rich_markup_mode=None
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
        raise typer.Exit(ExitCode.CHECK_FAILED)


@plugins_app.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="of the plugin, such as grain")],
    kind: Annotated[str, typer.Option(metavar="KIND", help=f"one of {', '.join(KINDS)}")] = KINDS[
        0
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="default: distillkit-NAME, in this folder"),
    ] = None,
) -> None:
    """Write a package with a plugin that works, to be changed."""
    from distillkit.plugins.manager import load_plugins
    from distillkit.plugins.scaffold import write_plugin

    taken = {plugin.name for plugin in load_plugins()}
    folder = write_plugin(name, kind, out, taken)
    typer.echo(f"{folder}; next: cd {folder}; pip install -e '.[test]'; pytest")
