"""Reads what the hooks of one plugin return, and checks it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pluggy

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import SPEC_TYPES, Spec

PREFIX = "distillkit_"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith(PREFIX))


def collect_specs(manager: pluggy.PluginManager, plugin: str) -> list[Spec]:
    """Call the hooks that return descriptors.

    Args:
        manager: with one plugin.
        plugin: its name, which is written into the descriptors.

    Raises:
        PluginError: a hook returns something else, or one name twice.
    """
    specs: list[Spec] = []
    for kind, spec_type in SPEC_TYPES.items():
        hook = f"{PREFIX}{kind}"
        summaries: dict[str, str] = {}
        for spec in _call(manager, hook):
            if not isinstance(spec, spec_type):
                raise PluginError(f"{hook} returned {spec!r:.80}, which is no {spec_type.__name__}")
            if spec.name in summaries:
                both = f'"{summaries[spec.name]}" and "{spec.summary}"'
                raise PluginError(f'{hook} offers the name "{spec.name}" twice: {both}')
            summaries[spec.name] = spec.summary
            specs.append(replace(spec, plugin=plugin))
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


def find_misspelled_hooks(module: Any) -> list[str]:
    """Describe every function of a plugin that looks like a hook and is none."""
    problems = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        mark = getattr(function, f"{PREFIX}impl", None)  # what @hookimpl leaves
        hook = name
        if mark and mark["specname"]:
            hook = mark["specname"]
        if hook in HOOKS and not mark:
            problems.append(f"has a function {hook} without @hookimpl, so it is never called")
        elif hook not in HOOKS and (mark or hook.startswith(PREFIX)):
            suggestion = did_you_mean(PREFIX + hook.removeprefix(PREFIX), HOOKS)
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
