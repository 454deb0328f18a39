"""Call the hooks of one plugin, and check what they return."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pluggy

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import SPEC_TYPES, Spec

PREFIX = "distillkit_"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith(PREFIX))


def collect_specs(manager: pluggy.PluginManager, plugin: str, distribution: str) -> list[Spec]:
    """Call the hooks that return descriptors.

    Args:
        manager: With one plugin.
        plugin: Its name, which is written into the descriptors.
        distribution: Name and version of what brings it, written into them as well.

    Raises:
        PluginError: A hook returns something else, or one name twice.
    """
    specs: list[Spec] = []
    for kind, spec_type in SPEC_TYPES.items():
        hook = f"{PREFIX}{kind}"
        if not _has(manager, hook):
            continue
        offered = _call(manager, hook)
        _check_specs(offered, spec_type, hook)
        for spec in offered:
            specs.append(replace(spec, plugin=plugin, distribution=distribution))
    return specs


def collect_commands(manager: pluggy.PluginManager) -> dict[str, Any]:
    """Call the hook that adds commands; return them by name, as typer makes them."""
    if not _has(manager, "distillkit_commands"):
        return {}
    import typer
    from typer.main import get_group

    app = typer.Typer(rich_markup_mode=None)
    manager.hook.distillkit_commands(app=app)
    return dict(get_group(app).commands)


def find_folder(manager: pluggy.PluginManager, kind: str) -> Path | None:
    """Call a hook that names a folder of the plugin's package; None without it.

    Args:
        manager: With one plugin.
        kind: The kind of what is in the folder: ``"recipes"`` or ``"trained"``.

    Raises:
        PluginError: It returned something else than an existing folder.
    """
    hook = f"{PREFIX}{kind}"
    if not _has(manager, hook):
        return None
    folder = _call(manager, hook)
    if not isinstance(folder, Path):
        raise PluginError(f"{hook} returned a {type(folder).__name__}, not a Path")
    if not folder.is_dir():
        raise PluginError(f"{hook} returned {folder}, which is no folder")
    return folder


def find_misspelled_hooks(module: Any) -> list[str]:
    """Describe every function of a plugin that looks like a hook and is none."""
    problems = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        # pluggy's marker leaves this attribute on what it decorates.
        mark = getattr(function, "distillkit_impl", None)
        if mark is None:
            problem = _explain_unmarked(name)
        else:
            problem = _explain_unknown(mark["specname"] or name, mark)
        if problem:
            problems.append(problem)
    return problems


def _explain_unmarked(name: str) -> str:
    """Say what is wrong with a function that lacks ``@hookimpl``; empty where nothing is."""
    if name in HOOKS:
        return f"has a function {name} without @hookimpl, so it is never called"
    if name.startswith(PREFIX):
        return _suggest_hook(name)
    return ""


def _explain_unknown(hook: str, mark: Mapping[str, Any]) -> str:
    """Say that a function with ``@hookimpl`` is no hook; empty where it is one."""
    # An optional hook belongs to another version of the engine, and says so.
    if hook in HOOKS or mark["optionalhook"]:
        return ""
    return _suggest_hook(hook)


def _suggest_hook(name: str) -> str:
    # A marked function may lack the prefix altogether.
    suggestion = did_you_mean(PREFIX + name.removeprefix(PREFIX), HOOKS)
    return f"has a hook {name}, which does not exist{suggestion}"


def _has(manager: pluggy.PluginManager, hook: str) -> bool:
    """Whether the one plugin of ``manager`` has a hook."""
    return bool(getattr(manager.hook, hook).get_hookimpls())


def _call(manager: pluggy.PluginManager, hook: str) -> Any:
    """Return what a hook of the one plugin of ``manager`` returns."""
    # pluggy lists the result of every plugin but leaves out None.
    return next(iter(getattr(manager.hook, hook)()), None)


def _check_specs(specs: Any, spec_type: type[Spec], hook: str) -> None:
    """Raise PluginError unless all are descriptors of a type, each with a name of its own."""
    if not isinstance(specs, Sequence):
        raise PluginError(f"{hook} returned a {type(specs).__name__}, not a list or tuple")
    summaries: dict[str, str] = {}
    for spec in specs:
        if not isinstance(spec, spec_type):
            expected = spec_type.__name__
            raise PluginError(f"{hook} returned {spec!r:.80}, which is no {expected}")
        name = spec.name
        if name in summaries:
            both = f'"{summaries[name]}" and "{spec.summary}"'
            raise PluginError(f'{hook} offers the name "{name}" twice: {both}')
        summaries[name] = spec.summary
