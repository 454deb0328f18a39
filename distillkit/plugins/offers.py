"""Reads what the hooks of one plugin return, and checks it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import pluggy

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import SPEC_TYPES, Capability, Kind, Spec, TeacherSpec

PREFIX = "distillkit_"
REFERENCE = r"[\w.]+:[\w.]+"
"""What names code: ``"module:name"``."""
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith(PREFIX))


def collect_specs(manager: pluggy.PluginManager, plugin: str) -> dict[Kind, dict[str, Spec]]:
    """Call the hooks that return descriptors.

    Args:
        manager: with one plugin.
        plugin: its name, which is written into the descriptors.

    Returns:
        The descriptors by kind and short name.

    Raises:
        PluginError: a hook returns something else, or one name twice.
    """
    return {kind: _collect_kind(manager, plugin, kind) for kind in SPEC_TYPES}


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


def find_misspelled_hooks(module: Any) -> Iterator[str]:
    """Describe every function of a plugin that looks like a hook and is none."""
    for name in dir(module):
        function = getattr(module, name, None)
        if not inspect.isroutine(function):
            continue
        marked = getattr(function, f"{PREFIX}impl", None)
        hook = name
        if marked and marked["specname"]:
            hook = marked["specname"]
        if hook in HOOKS:
            if not marked:
                yield f"has a function {hook} without @hookimpl, so it is never called"
        elif marked or hook.startswith(PREFIX):
            meant = did_you_mean(PREFIX + hook.removeprefix(PREFIX), HOOKS)
            yield f"has a hook {hook}, which does not exist{meant}"


def _collect_kind(manager: pluggy.PluginManager, plugin: str, kind: Kind) -> dict[str, Spec]:
    hook = f"{PREFIX}{kind}"
    specs: dict[str, Spec] = {}
    for spec in _call(manager, hook):
        problem = _find_problem(spec, SPEC_TYPES[kind])
        if problem:
            raise PluginError(f"{hook}{problem}")
        if spec.name in specs:
            both = f'"{specs[spec.name].summary}" and "{spec.summary}"'
            raise PluginError(f'{hook} offers the name "{spec.name}" twice: {both}')
        specs[spec.name] = replace(spec, plugin=plugin)
    return specs


def _call(manager: pluggy.PluginManager, hook: str) -> Sequence[Any]:
    """Return what the one plugin of ``manager`` offers; nothing if it lacks the hook."""
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        return ()
    results = caller()
    if not results:  # pluggy drops a result of None
        raise PluginError(f"{hook} returned a NoneType, not a list or tuple")
    if not isinstance(results[0], Sequence):
        raise PluginError(f"{hook} returned a {type(results[0]).__name__}, not a list or tuple")
    return results[0]


def _find_problem(spec: Any, expected: type[Spec]) -> str | None:
    """Say what is wrong with a descriptor; None if it is well-formed."""
    if not isinstance(spec, expected):
        return f" returned {spec!r:.80}, which is no {expected.__name__}"
    if not _matches(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        return f": {spec.name!r} is no name (letters, digits, '.', '_' and '-')"
    if not isinstance(spec.summary, str):
        return f': summary of "{spec.name}" is {spec.summary!r}, not a text'
    if not _matches(REFERENCE, spec.options):
        return f': options of "{spec.name}" is {spec.options!r}, not "module:Class"'
    if not _matches(REFERENCE, spec.build):
        return f': build of "{spec.name}" is {spec.build!r}, not "module:function"'
    if isinstance(spec, TeacherSpec):
        given = set(spec.capabilities)
        if not given or not given <= set(get_args(Capability)):
            listed = list(spec.capabilities)
            return f': capabilities of "{spec.name}" are {listed}, not "score", "output" or both'
    return None


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
