"""Finds the commands that README and docs show, and checks them against the command line.

Nothing is run: commands, options and arguments are compared with what typer would accept.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from generate import own_plugins
from pages import FENCE, ROOT
from typer.main import get_command

from distillkit.cli.main import LEVEL_OF_FLAG, NO_PLUGIN, PLUGIN, _take_option, app
from distillkit.plugins.recipes import list_recipes

PROGRAM = "distillkit"
STOPS = {"&&", ";", ">", "2>", "&", "||"}
PLACEHOLDER = re.compile(r"[A-Z_/]+")
"""What stands for a value: RECIPE, OWNER/NAME."""


class Shown(NamedTuple):
    """A command in a block of code."""

    place: str
    """``page:line``."""
    text: str


def shown_commands(page: str, text: str) -> Iterator[Shown]:
    """Yield the commands in the blocks of code of a page, one a line."""
    number = 0
    started = ""
    for number, line in enumerate(code_lines(text), 1):
        continued = line.endswith("\\")
        started += line.removesuffix("\\")
        if continued:
            continue
        if re.search(rf"(^|\s){PROGRAM}\s", started) and not started.startswith("#"):
            yield Shown(f"{page}:{number}", started.strip())
        started = ""


def code_lines(text: str) -> Iterator[str]:
    """Yield every line of a page; those that are in no block of code are empty."""
    fence = ""
    for line in text.splitlines():
        found = FENCE.match(line)
        if found:
            # Programs may hold texts that look like a command.
            is_code = "python" not in line
            fence = "" if fence else found[2] if is_code else "skip"
            yield ""
        elif fence == "skip" or not (fence or line.startswith("    ")):
            yield ""
        else:
            yield line.strip()


def split(command: str) -> list[str]:
    """Split a command into words; comments, pipes and what follows them are left out."""
    words = shlex.split(command, comments=True)
    if PROGRAM not in words or {"pip", "build"} & set(words[:2]):
        return []
    words = words[words.index(PROGRAM) + 1 :]
    kept = []
    for position, word in enumerate(words):
        if word in STOPS:
            break
        if word == "|":
            following = words[position + 1] if position + 1 < len(words) else ""
            # In a summary of options: [--resume | --fork RUN].
            if following.startswith("-"):
                continue
            break
        kept.append(_without_brackets(word))
    return [word for word in kept if word and word != "..."]


def _without_brackets(word: str) -> str:
    """Take off the brackets of what may be left out: ``[--out``, ``DIR]``."""
    if word.startswith("["):
        word = word[1:]
    if word.endswith("]") and word.count("]") > word.count("["):
        word = word[:-1]
    return word


@functools.cache
def command_line() -> Any:
    """Return the command line with the commands of this repository's plugins."""
    group = get_command(app)
    plugins = own_plugins()
    for name, command in plugins.commands(taken=group.commands).items():
        group.add_command(command, name)
    return group


@functools.cache
def recipe_names() -> set[str]:
    """Return the names of the recipes of this repository's plugins."""
    return {recipe.name for recipe in list_recipes(own_plugins())}


def find_problems(words: list[str]) -> list[str]:
    """Say what of a command does not exist."""
    _, words = _take_option(PLUGIN, words)
    _, words = _take_option(NO_PLUGIN, words)
    words = [word for word in words if word not in LEVEL_OF_FLAG]
    command = command_line()
    while words and hasattr(command, "commands"):
        name, *rest = words
        if "|" in name:
            # Several commands in one line: recipe list|copy.
            return [problem for one in name.split("|") for problem in _unknown(command, one)]
        if name not in command.commands:
            break
        command = command.commands[name]
        words = rest
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return _unknown(command, words[0])
    return _parse(command, words)


def _unknown(group: Any, name: str) -> list[str]:
    return [] if name in group.commands else [f"no command {name}"]


def _parse(command: Any, words: list[str]) -> list[str]:
    """Let typer parse the words of one command."""
    context = command.context_class(command, info_name=command.name)
    try:
        values, left, _ = command.make_parser(context).parse_args(args=list(words))
    except Exception as e:
        return [str(e)]
    problems = [f"left over: {' '.join(left)}"] if left else []
    for parameter in command.params:
        value = values.get(parameter.name)
        if parameter.required and value in (None, (), []):
            problems.append(f"without {parameter.metavar or parameter.opts[0]}")
        if parameter.name == "recipe" or (command.name == "copy" and parameter.name == "name"):
            problems += _check_recipe(value)
    return problems


def _check_recipe(name: Any) -> list[str]:
    """Look for a recipe that is named; a file of the reader's own is not looked for."""
    if not isinstance(name, str) or PLACEHOLDER.fullmatch(name):
        return []
    if name.endswith(".toml"):
        missing = name.startswith("recipes/") and not (ROOT / name).is_file()
    else:
        # A plugin that a page begins, mine, is nobody's.
        owners = {recipe.partition("/")[0] for recipe in recipe_names()}
        missing = name not in recipe_names() and name.partition("/")[0] in owners
    return [f"no recipe {name}"] if missing else []
