"""Reads what the hooks of one plugin return, and checks it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
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
        manager: with one plugin.
        plugin: its name, which is written into the descriptors.
        distribution: name and version of what brings it, written into them as well.

    Raises:
        PluginError: a hook returns something else, or one name twice.
    """
    specs: list[Spec] = []
    for kind, spec_type in SPEC_TYPES.items():
        hook = f"{PREFIX}{kind}"
        offered = _call(manager, hook)
        _check_specs(offered, spec_type, hook)
        for spec in offered:
            specs.append(replace(spec, plugin=plugin, distribution=distribution))
    return specs


def collect_commands(manager: pluggy.PluginManager) -> dict[str, Any]:
    """Call the hook that adds commands; return them by name, as typer makes them."""
    hook = manager.hook.distillkit_commands
    if not hook.get_hookimpls():
        return {}
    import typer
    from typer.main import get_group

    app = typer.Typer(rich_markup_mode=None)
    hook(app=app)
    return dict(get_group(app).commands)


def find_folder(manager: pluggy.PluginManager, kind: str) -> Path | None:
    """Call a hook that names a folder of the plugin's package; None without it.

    Args:
        manager: with one plugin.
        kind: of what is in the folder: ``"recipes"`` or ``"trained"``.

    Raises:
        PluginError: it returned something else than an existing folder.
    """
    name = f"{PREFIX}{kind}"
    hook = getattr(manager.hook, name)
    if not hook.get_hookimpls():
        return None
    # pluggy lists the result of every plugin but leaves out None.
    folder = next(iter(hook()), None)
    if not isinstance(folder, Path):
        raise PluginError(f"{name} returned a {type(folder).__name__}, not a Path")
    if not folder.is_dir():
        raise PluginError(f"{name} returned {folder}, which is no folder")
    return folder


def find_misspelled_hooks(module: Any) -> list[str]:
    """Describe every function of a plugin that looks like a hook and is none."""
    problems = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        # pluggy's marker leaves this attribute on what it decorates.
        mark = getattr(function, "distillkit_impl", None)
        hook = name
        if mark and mark["specname"]:
            hook = mark["specname"]
        exists = hook in HOOKS
        looks_like_a_hook = mark or hook.startswith(PREFIX)
        if mark and mark["optionalhook"]:
            # It belongs to another version of the engine, and says so.
            continue
        if exists and not mark:
            problems.append(f"has a function {hook} without @hookimpl, so it is never called")
        elif looks_like_a_hook and not exists:
            # A marked function may lack the prefix altogether.
            bare_name = hook.removeprefix(PREFIX)
            suggestion = did_you_mean(PREFIX + bare_name, HOOKS)
            problems.append(f"has a hook {hook}, which does not exist{suggestion}")
    return problems


def _call(manager: pluggy.PluginManager, hook: str) -> Sequence[Any]:
    """Return what the one plugin of ``manager`` offers; nothing if it lacks the hook."""
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        return ()
    # pluggy lists the result of every plugin but leaves out None.
    returned = next(iter(caller()), None)
    if not isinstance(returned, Sequence):
        raise PluginError(f"{hook} returned a {type(returned).__name__}, not a list or tuple")
    return returned


def _check_specs(specs: Sequence[Any], spec_type: type[Spec], hook: str) -> None:
    """Raise PluginError unless all are descriptors of a type, each with a name of its own."""
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
