"""The command line: the engine's commands, and those that plugins add.

Commands import heavy code inside their functions, so that help is instant.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.main import get_command

import distillkit
from distillkit.cli.cache import cache_app
from distillkit.cli.degrade import degrade
from distillkit.cli.doctor import doctor
from distillkit.cli.evaluate import compare, evaluate
from distillkit.cli.exit_codes import ExitCode
from distillkit.cli.export import export
from distillkit.cli.fetch import fetch
from distillkit.cli.plugins import plugins_app
from distillkit.cli.push import push
from distillkit.cli.recipe import recipe_app
from distillkit.cli.restore import choose_for_images, restore_command
from distillkit.cli.run import run
from distillkit.cli.sweep import sweep
from distillkit.console import LEVEL, logger, set_log_level
from distillkit.errors import DistillkitError, Interrupted, PluginError
from distillkit.inference.files import IMAGE_FILES

PLUGIN = "--plugin"
NO_PLUGIN = "--no-plugin"
LEVEL_OF_FLAG = {"-v": "debug", "--verbose": "debug", "-q": "warning", "--quiet": "warning"}

EXTRA_OF_COMMAND = {"advise": "bench", "bench": "bench", "demo": "demo", "restore-video": "video"}
"""The extra of this distribution that brings a plugin's command."""

app = typer.Typer(
    help="Distill a faithful and a realistic restoration teacher into one student, "
    "with a tradeoff between them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    # No color, also in what typer prints itself, whatever NO_COLOR says.
    context_settings={"help_option_names": ["-h", "--help"], "color": False},
)
app.command()(run)
app.command("restore", help="Restore images with a student or another model.")(
    restore_command(IMAGE_FILES, "distillkit.inference.files:restore_image", choose_for_images)
)
for command in (export, push, evaluate, compare, sweep, degrade, fetch, doctor):
    app.command()(command)
app.add_typer(plugins_app, name="plugins")
app.add_typer(recipe_app, name="recipe")
app.add_typer(cache_app, name="cache")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"distillkit {distillkit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            PLUGIN, metavar="FILE", help="Use a file of Python as a plugin. Repeatable, anywhere."
        ),
    ] = None,
    no_plugin: Annotated[
        list[str] | None,
        typer.Option(NO_PLUGIN, metavar="NAME", help="Do without a plugin. Repeatable, anywhere."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show details and tracebacks. Anywhere.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("-q", "--quiet", help="Show only results, warnings and errors. Anywhere."),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; it ends with one of the exit codes of :class:`ExitCode`."""
    # Plugins add to typer's own command what they bring, so app() would not do.
    commands = get_command(app)
    try:
        arguments = _take_log_level(sys.argv[1:])
        set_log_level()
        arguments = _take_plugin_options(arguments)
        _add_plugin_commands(commands, arguments)
        commands(arguments, prog_name="distillkit")
    except DistillkitError as e:
        _print_error(e)
        sys.exit(ExitCode.REFUSED)
    except Interrupted as e:
        typer.echo(str(e), err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(ExitCode.BUG)


def _take_log_level(arguments: list[str]) -> list[str]:
    """Store the level of ``-v`` or ``-q`` in the environment; return the other arguments."""
    rest = []
    for word in arguments:
        if word in LEVEL_OF_FLAG:
            os.environ[LEVEL] = LEVEL_OF_FLAG[word]
        else:
            rest.append(word)
    return rest


def _take_plugin_options(arguments: list[str]) -> list[str]:
    """Add and switch off what ``--plugin`` and ``--no-plugin`` name; return the other arguments.

    They are read before typer reads the rest, which asks the plugins for their commands.
    """
    files, rest = _take_option(PLUGIN, arguments)
    switched_off, rest = _take_option(NO_PLUGIN, rest)
    if files or switched_off:
        from distillkit.plugins.manager import add_plugin_files, switch_off_plugins

        add_plugin_files(files)
        switch_off_plugins(switched_off)
    return rest


def _take_option(option: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take an option out of a command line: its values, and the rest."""
    values = []
    rest = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != option:
            rest.append(word)
        elif equals:
            values.append(value)
        else:
            values.append(next(words, ""))
    return values, rest


def _add_plugin_commands(commands: Any, arguments: list[str]) -> None:
    """Add the plugins' commands to those of the engine, if one may be asked for.

    Args:
        commands: Typer's group of commands.
        arguments: What is on the command line. No plugin is loaded for a command of the engine.

    Raises:
        PluginError: The command comes with an extra that is not installed, or nobody has it and a
            broken plugin might.
    """
    # Without arguments the help is shown.
    requested = "--help"
    if arguments:
        requested = arguments[0]
    if requested in commands.commands or requested == "--version":
        return
    from distillkit.plugins.manager import load_plugins

    plugins = load_plugins()
    for name, command in plugins.commands(taken=commands.commands).items():
        commands.add_command(command, name)
    if requested in commands.commands or requested.startswith("-"):
        return
    reasons = [plugin.complaint for plugin in plugins.broken]
    if requested in EXTRA_OF_COMMAND:
        extra = EXTRA_OF_COMMAND[requested]
        reasons.append(f"it comes with: pip install 'distillkit[{extra}]'")
    if reasons:
        raise PluginError(f"no command {requested}; {'; '.join(reasons)}")


def _print_error(error: DistillkitError) -> None:
    source = "error"
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        source += f" (process {os.environ.get('RANK', '?')})"
    typer.echo(f"{source}: {error}", err=True)
    logger.debug("where it was raised:", exc_info=error)
