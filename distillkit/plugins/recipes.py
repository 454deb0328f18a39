"""The recipes that plugins ship in their packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distillkit.errors import DistillkitError, PluginError
from distillkit.files.atomic import write_file
from distillkit.plugins.manager import Plugin, Plugins

SUFFIX = ".toml"
DIRECTIVE = "#:schema"
"""A recipe's first line, by which editors find the JSON schema of recipes."""
SCHEMA = "distillkit.schema.json"
"""The file of the JSON schema, beside a recipe."""


@dataclass(frozen=True)
class PackagedRecipe:
    """A recipe of a plugin."""

    name: str
    """``"<plugin>/<file without its suffix>"``."""
    path: Path

    @property
    def summary(self) -> str:
        """The comment that the file begins with, its first line; empty where there is none."""
        lines = _without_directive(self.path)
        if not lines or not lines[0].startswith("#"):
            return ""
        return lines[0].strip("# \n")


def _without_directive(path: Path) -> list[str]:
    """Read the lines of a recipe, without the directive for editors."""
    text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines(True) if not line.startswith(DIRECTIVE)]


def is_recipe_file(name: str) -> bool:
    """Whether a name means a file: every other one means a recipe of a plugin."""
    return name.lower().endswith(SUFFIX)


def recipes_of(plugin: Plugin) -> list[PackagedRecipe]:
    """List the recipes of a plugin by name."""
    folder = plugin.recipes
    if folder is None:
        return []
    found = []
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        below = path.relative_to(folder).with_suffix("").as_posix()
        found.append(PackagedRecipe(f"{plugin.name}/{below}", path))
    return found


def list_recipes(plugins: Plugins) -> list[PackagedRecipe]:
    """List the recipes of all plugins."""
    return [recipe for plugin in plugins for recipe in recipes_of(plugin)]


def find_recipe(name: str, plugins: Plugins) -> PackagedRecipe:
    """Return the recipe of a plugin that has a name.

    Raises:
        PluginError: There is none. The message lists those there are, the nearest first.
    """
    for recipe in list_recipes(plugins):
        if recipe.name == name:
            return recipe
    raise PluginError(_explain_unknown(name, plugins))


def _explain_unknown(name: str, plugins: Plugins) -> str:
    """Say why no recipe has a name, and which there are."""
    owner, slash, _ = name.partition("/")
    reason = plugins.explain_unavailable(owner)
    if reason:
        return reason
    what = f'no plugin has a recipe "{name}"'
    if slash and owner not in [plugin.name for plugin in plugins]:
        what = f'no plugin "{owner}" is installed'
    missing = f"{what}, and the name of a file ends in {SUFFIX}"
    names = [recipe.name for recipe in list_recipes(plugins)]
    if not names:
        return f"{missing}; no installed plugin has recipes"
    known = ", ".join(_nearest_first(name, names))
    return f"{missing}; there are, the nearest first: {known}"


def suggest_recipe(file_name: str, plugins: Plugins) -> str:
    """Suggest a plugin's recipe for a file that is missing, or nothing."""
    names = {recipe.path.name: recipe.name for recipe in list_recipes(plugins)}
    close = difflib.get_close_matches(file_name, names, n=1, cutoff=0.7)
    if not close:
        return ""
    return f'; did you mean the recipe of a plugin, "{names[close[0]]}"?'


def copy_recipe(name: str, out: Path | None, plugins: Plugins) -> Path:
    """Copy a plugin's recipe into a file, which is returned.

    Its first line names a schema beside it, for editors.

    Args:
        name: The name of the recipe.
        out: The file; default: the recipe's last name, in the working folder.
        plugins: That ship recipes.

    Raises:
        PluginError: There is no such recipe.
        DistillkitError: The file exists, or could not be run as a recipe.
    """
    recipe = find_recipe(name, plugins)
    file = out or Path(recipe.path.name)
    if not is_recipe_file(file.name):
        raise DistillkitError(f"{file} - the name of a recipe file ends in {SUFFIX}")
    if file.exists():
        raise DistillkitError(f"{file} - exists already; choose another file with -o")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{DIRECTIVE} {SCHEMA}\n", *_without_directive(recipe.path)]
    write_file(file, "".join(lines).encode())
    return file


def _nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Sort names by how much they resemble another, with or without the plugin's part."""

    def likeness(other: str) -> float:
        whole = difflib.SequenceMatcher(None, name, other).ratio()
        last = difflib.SequenceMatcher(None, _last_part(name), _last_part(other)).ratio()
        return max(whole, last)

    return sorted(known, key=likeness, reverse=True)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]
