"""Write what is generated from the code: ``python docs/generate.py``.

These are the pages of the reference and the JSON schema of recipes. They are committed, so that
they can be read without building anything; ``tests/test_generated.py`` notices stale ones.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import entry_points

from docstrings import api_page, hooks_page
from pages import ROOT
from reference import commands_page, components_page, metrics_page, recipe_page

from distillkit.plugins.manager import ENGINE, GROUP, Plugins, load_plugins
from distillkit.recipe.json_schema import schema_text

SCHEMA = "recipes/distillkit.schema.json"


def generate() -> dict[str, str]:
    """Return the text of every generated file, by its path from the root."""
    plugins = own_plugins()
    return {
        SCHEMA: schema_text(plugins),
        "docs/reference/commands.md": commands_page(plugins),
        "docs/reference/recipe.md": recipe_page(),
        "docs/reference/components.md": components_page(plugins),
        "docs/reference/metrics.md": metrics_page(plugins),
        "docs/reference/hooks.md": hooks_page(),
        "docs/reference/api.md": api_page(),
    }


def own_plugins() -> Plugins:
    """Load the plugins of this repository, whatever else is installed."""
    names = {ENGINE.name}
    for project in ROOT.glob("plugins/*/pyproject.toml"):
        settings = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        names |= settings["entry-points"][GROUP].keys()
    plugins = load_plugins(point for point in entry_points(group=GROUP) if point.name in names)
    missing = names - {plugin.name for plugin in plugins if not plugin.error}
    if missing:
        sys.exit(f"install the plugins of this repository first; these are missing: {missing}")
    return plugins


if __name__ == "__main__":
    for name, text in generate().items():
        (ROOT / name).write_text(text, encoding="utf-8")
