"""What ``distillkit plugins`` prints."""

from __future__ import annotations

from typing import Any

from distillkit.plugins.descriptors import Spec, StudentSpec, TeacherSpec
from distillkit.plugins.manager import Plugin, load_plugins
from distillkit.plugins.recipes import PackagedRecipe, list_recipes, recipes_of
from distillkit.plugins.trained import trained_of

Description = dict[str, Any]


def describe_plugins() -> list[Description]:
    """Describe each plugin: name, distribution, what is wrong with it, and what it offers."""
    return [_describe_plugin(plugin) for plugin in load_plugins()]


def plugin_table() -> str:
    """Format the plugins for people, the broken ones with their error."""
    blocks = [_format_plugin(plugin) for plugin in describe_plugins()]
    return "\n\n".join(blocks) or "no plugins are installed"


def describe_recipes() -> list[Description]:
    """Describe the recipe of every plugin: name, summary and file."""
    return [_describe_recipe(recipe) for recipe in list_recipes(load_plugins())]


def recipe_table() -> str:
    """Format the plugins' recipes for people."""
    recipes = describe_recipes()
    width = max((len(recipe["name"]) for recipe in recipes), default=0)
    lines = [f"{recipe['name'].ljust(width)}  {recipe['summary']}" for recipe in recipes]
    return "\n".join(lines) or "no installed plugin has recipes"


def _describe_recipe(recipe: PackagedRecipe) -> Description:
    return {"name": recipe.name, "summary": recipe.summary, "file": str(recipe.path)}


def _describe_plugin(plugin: Plugin) -> Description:
    offers = [_describe_spec(spec) for spec in plugin.specs]
    for name, command in plugin.commands.items():
        offers.append(_describe_command(name, command))
    for recipe in recipes_of(plugin):
        offers.append({"kind": "recipe", **_describe_recipe(recipe)})
    for student in trained_of(plugin):
        summary = f"a trained student: distillkit restore IN... -o OUT --run {student.name}"
        offers.append({"kind": "trained", "name": student.name, "summary": summary})
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "error": plugin.error,
        "problems": list(plugin.problems),
        "unmet_requirements": plugin.unmet_requirements(),
        "slow": plugin.slow,
        "offers": offers,
    }


def _describe_spec(spec: Spec) -> Description:
    description: Description = {
        "kind": spec.kind,
        "name": spec.full_name,
        "summary": spec.summary,
        "license": spec.license,
    }
    if isinstance(spec, TeacherSpec | StudentSpec):
        description["capabilities"] = sorted(spec.capabilities)
    return description


def _describe_command(name: str, command: Any) -> Description:
    text = command.help or ""
    return {
        "kind": "command",
        "name": name,
        "summary": text.partition("\n")[0],
    }


def _format_plugin(plugin: Description) -> str:
    name = plugin["name"]
    error = plugin["error"]
    lines = [f"{name}  ({plugin['distribution']})"]
    if error:
        lines.append(f"  BROKEN: {error}; see: distillkit plugins check {name}")
    warnings = [*plugin["problems"], *plugin["unmet_requirements"]]
    if plugin["slow"]:
        warnings.append(plugin["slow"])
    for warning in warnings:
        lines.append(f"  warning: {warning}")
    offers = plugin["offers"]
    width = max((len(offer["name"]) for offer in offers), default=0)
    for offer in offers:
        lines.append(_format_offer(offer, width))
    return "\n".join(lines)


def _format_offer(offer: Description, width: int) -> str:
    kind = offer["kind"].ljust(11)
    name = offer["name"].ljust(width)
    summary = offer["summary"]
    if "capabilities" in offer:
        capabilities = ", ".join(offer["capabilities"])
        summary += f" [{capabilities}]"
    return f"  {kind}  {name}  {summary}"
