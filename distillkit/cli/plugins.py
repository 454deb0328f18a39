"""The commands ``distillkit plugins ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillkit.cli.arguments import AsJson, print_json
from distillkit.cli.exit_codes import ExitCode
from distillkit.plugins.scaffold import KINDS

plugins_app = typer.Typer(
    help="List what plugins offer; check or begin a plugin.", rich_markup_mode=None
)


@plugins_app.callback(invoke_without_command=True)
def list_plugins(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """List what the installed plugins offer."""
    if context.invoked_subcommand is not None:
        return
    from distillkit.plugins.listing import describe_plugins, plugin_table

    if as_json:
        print_json(describe_plugins())
    else:
        typer.echo(plugin_table())


@plugins_app.command("check")
def check_plugin(
    name: Annotated[
        str, typer.Argument(help="A plugin, or one of its models: mini, mini/faithful.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check that a plugin keeps the contracts.

    For a broken plugin, show why it does not load.
    """
    from distillkit.testing.contract import examine_plugin

    examined = examine_plugin(name)
    if as_json:
        print_json(examined.as_dict())
    else:
        typer.echo(str(examined))
    if examined.count_failed():
        raise typer.Exit(ExitCode.CHECK_FAILED)


@plugins_app.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="The name of the plugin, such as grain.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help=f"Offer one of {', '.join(KINDS)}.")
    ] = KINDS[0],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Write into this folder; by default distillkit-NAME."
        ),
    ] = None,
) -> None:
    """Write a package with a plugin that works, to be changed."""
    from distillkit.plugins.manager import load_plugins
    from distillkit.plugins.scaffold import write_plugin

    taken = {plugin.name for plugin in load_plugins()}
    folder = write_plugin(name, kind, out, taken)
    typer.echo(f"{folder}; next: cd {folder}; pip install -e '.[test]'; pytest")
