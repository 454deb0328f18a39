"""What ``distillkit plugins`` prints."""

from __future__ import annotations

from typing import Any, get_args

from distillkit.plugins.descriptors import Spec, TeacherSpec
from distillkit.plugins.manager import Kind, Plugin, load_plugins


def as_dicts() -> list[dict[str, Any]]:
    """One dictionary a plugin: name, distribution, error, problems, and its descriptors by kind."""
    return [_plugin(p) for p in load_plugins()]


def as_text() -> str:
    """A table for people: one block a plugin, the broken ones with their error."""
    return "\n\n".join(_block(p) for p in load_plugins()) or "no plugins are installed"


def _plugin(plugin: Plugin) -> dict[str, Any]:
    offers: dict[str, Any] = {
        kind: [_spec(plugin, spec) for spec in specs.values()]
        for kind, specs in plugin.specs.items()
        if specs
    }
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "error": plugin.error,
        "problems": list(plugin.problems),
        "recipes": [str(r) for r in plugin.recipes],
        **offers,
    }


def _spec(plugin: Plugin, spec: Spec) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": f"{plugin.name}/{spec.name}",
        "summary": spec.summary,
        "license": spec.license,
    }
    return row | (
        {"capabilities": sorted(spec.capabilities)} if isinstance(spec, TeacherSpec) else {}
    )


def _block(plugin: Plugin) -> str:
    lines = [f"{plugin.name}  ({plugin.distribution})"]
    if plugin.error:
        lines.append(f"  BROKEN: {plugin.error}; see: distillkit plugins check {plugin.name}")
    lines += [f"  warning: {problem}" for problem in plugin.problems]
    for kind in get_args(Kind):
        for spec in plugin.specs.get(kind, {}).values():
            offers = (
                f" [{', '.join(sorted(spec.capabilities))}]"
                if isinstance(spec, TeacherSpec)
                else ""
            )
            lines.append(
                f"  {kind[:-1]:<12}{plugin.name + '/' + spec.name:<26}{spec.summary}{offers}"
            )
    lines += [f"  {'recipe':<12}{path}" for path in plugin.recipes]
    return "\n".join(lines)
