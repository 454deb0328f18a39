"""What ``distillkit plugins`` prints."""

from __future__ import annotations

from typing import Any

from distillkit.plugins.descriptors import Spec, TeacherSpec
from distillkit.plugins.manager import Plugin, load_plugins


def describe_plugins() -> list[dict[str, Any]]:
    """Describe each plugin: name, distribution, error, problems, and what it offers by kind."""
    return [_describe_plugin(plugin) for plugin in load_plugins()]


def plugin_table() -> str:
    """Format the plugins for people, the broken ones with their error."""
    blocks = ["\n".join(_block_lines(plugin)) for plugin in load_plugins()]
    return "\n\n".join(blocks) or "no plugins are installed"


def _describe_plugin(plugin: Plugin) -> dict[str, Any]:
    description: dict[str, Any] = {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "error": plugin.error,
        "problems": list(plugin.problems),
    }
    for kind, specs in plugin.specs.items():
        if specs:
            description[kind] = [_describe_spec(spec) for spec in specs.values()]
    if plugin.commands:
        description["commands"] = [
            {"name": name, "summary": _summary(command)}
            for name, command in plugin.commands.items()
        ]
    return description


def _describe_spec(spec: Spec) -> dict[str, Any]:
    description: dict[str, Any] = {
        "name": spec.full_name,
        "summary": spec.summary,
        "license": spec.license,
    }
    if isinstance(spec, TeacherSpec):
        description["capabilities"] = sorted(spec.capabilities)
    return description


def _block_lines(plugin: Plugin) -> list[str]:
    lines = [f"{plugin.name}  ({plugin.distribution})"]
    if plugin.error:
        lines.append(f"  BROKEN: {plugin.error}; see: distillkit plugins check {plugin.name}")
    lines += [f"  warning: {problem}" for problem in plugin.problems]
    rows = [_spec_row(spec) for specs in plugin.specs.values() for spec in specs.values()]
    rows += [("command", name, _summary(command)) for name, command in plugin.commands.items()]
    width = max((len(name) for _, name, _ in rows), default=0)
    lines += [f"  {kind:<11}  {name:<{width}}  {summary}" for kind, name, summary in rows]
    return lines


def _spec_row(spec: Spec) -> tuple[str, str, str]:
    summary = spec.summary
    if isinstance(spec, TeacherSpec):
        summary += f" [{', '.join(sorted(spec.capabilities))}]"
    return spec.kind, spec.full_name, summary


def _summary(command: Any) -> str:
    """Return the first line of a command's help."""
    return (command.help or "").partition("\n")[0]
