"""Finds the installed plugins and what they offer. Each has a pluggy manager of its own, so that what one breaks stays its own."""

from __future__ import annotations

import functools
import inspect
import re
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, get_args

import pluggy

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import (
    Capability,
    DatasetSpec,
    DegradationSpec,
    MetricSpec,
    Spec,
    StudentSpec,
    TeacherSpec,
)
from distillkit.plugins.options import Options

GROUP = "distillkit"
"""The entry-point group of plugins."""

Kind = Literal["teachers", "students", "degradations", "datasets", "metrics"]

_SPEC_OF: dict[Kind, type[Spec]] = {
    "teachers": TeacherSpec,
    "students": StudentSpec,
    "degradations": DegradationSpec,
    "datasets": DatasetSpec,
    "metrics": MetricSpec,
}
_HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("distillkit_"))


@dataclass
class Plugin:
    """One entry point of the group: working, or broken with the reason why."""

    name: str
    """The entry point's name, the part of a full name before the slash."""
    distribution: str
    """Name and version of the distribution that brings it."""
    specs: dict[Kind, dict[str, Spec]] = field(default_factory=dict)
    """Its descriptors by kind and short name; empty for a broken plugin."""
    recipes: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    """Misspelt or unmarked hooks: the plugin works without them."""
    error: str | None = None
    """Why it is broken, in one line."""
    traceback: str | None = None
    _manager: pluggy.PluginManager | None = None

    def __str__(self) -> str:
        return f'plugin "{self.name}" ({self.distribution})'


class Plugins:
    """All installed plugins, the broken ones included."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = tuple(sorted(plugins, key=lambda p: (p.name, p.distribution)))

    def __iter__(self) -> Iterator[Plugin]:
        return iter(self.plugins)

    @property
    def broken(self) -> list[Plugin]:
        return [p for p in self if p.error]

    def specs(self, kind: Kind) -> dict[str, Spec]:
        """Everything of a kind that the working plugins offer, by full name (``"<plugin>/<name>"``)."""
        return {
            f"{p.name}/{name}": spec for p in self for name, spec in p.specs.get(kind, {}).items()
        }

    def find(self, kind: Kind, use: str) -> tuple[str, Spec]:
        """The full name and descriptor of what ``use`` names.

        Args:
            use: a full name, or a short one where only one plugin offers it.

        Raises:
            PluginError: nothing has that name, several have, or it belongs to a plugin that is broken.
        """
        offered = self.specs(kind)
        named = [full for full in offered if _names(use, full)]
        if len(named) == 1:
            return named[0], offered[named[0]]
        if named:
            raise PluginError(f'"{use}" is offered by several plugins; say which: {_quoted(named)}')
        raise PluginError(self._why_unknown(kind, use))

    def _why_unknown(self, kind: Kind, use: str) -> str:
        owner = use.partition("/")[0] if "/" in use else None
        broken = [f"{p} is broken: {p.error}" for p in self.broken if owner in (p.name, None)]
        if owner and broken:
            return "; ".join(broken)
        others = [
            other
            for other in get_args(Kind)
            if any(_names(use, full) for full in self.specs(other))
        ]
        if others:
            return f'"{use}" is among the {" and ".join(others)}, not the {kind}'
        full_names = self.specs(kind)
        suggestion = did_you_mean(
            use, [*full_names, *(full.partition("/")[2] for full in full_names)]
        )
        hints = [
            f"{p} {problem}" for p in self if owner in (p.name, None) for problem in p.problems
        ]
        if not suggestion:
            hints = [
                f"known: {_quoted(full_names)}"
                if full_names
                else f"no installed plugin offers {kind}",
                *hints,
            ]
        return "; ".join(
            [f'no plugin offers "{use}" among its {kind}{suggestion}', *broken, *hints]
        )

    def notify(self, hook: str, /, **arguments: Any) -> None:
        """Call an observer hook (``"distillkit_step"``, ...) of every plugin that has it.

        A plugin whose observer raises is warned of once, and observes no more.
        """
        for plugin in self:
            if plugin._manager is None:
                continue
            call = getattr(plugin._manager.hook, hook)
            try:
                call(**arguments)
            except Exception as e:
                plugin._manager = None
                warnings.warn(
                    f"{plugin} failed in {hook} and is not called again: {_in_one_line(e)}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def load_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Import every plugin of the entry-point group ``distillkit``. Never raises: a broken plugin is listed as broken.

    Args:
        points: load these instead; without it the installed plugins, found once per process.
    """
    return _installed() if points is None else _load(points)


@functools.cache
def _installed() -> Plugins:
    return _load(entry_points(group=GROUP))


def _load(points: Iterable[EntryPoint]) -> Plugins:
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point)
    return Plugins(
        _load_one(name, same[0]) if len(same) == 1 else _clash(name, same)
        for name, same in by_name.items()
    )


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _clash(name: str, same: Sequence[EntryPoint]) -> Plugin:
    owners = " and ".join(_distribution(p) for p in same)
    return Plugin(
        name,
        owners,
        error=f'{len(same)} plugins are called "{name}" ({owners}); uninstall all but one',
    )


def _load_one(name: str, point: EntryPoint) -> Plugin:
    try:
        module = point.load()
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module, name)
        return Plugin(
            name,
            _distribution(point),
            specs={kind: _collect(manager, name, kind) for kind in _SPEC_OF},
            recipes=tuple(Path(path) for path in _returned(manager, "distillkit_recipes")),
            problems=tuple(_misspelt(module)),
            _manager=manager,
        )
    except (Exception, SystemExit) as e:
        return Plugin(
            name, _distribution(point), error=_in_one_line(e), traceback=traceback.format_exc()
        )


def _returned(manager: pluggy.PluginManager, hook: str) -> Sequence[Any]:
    """What the one plugin of ``manager`` returns from ``hook``; nothing if it lacks the hook."""
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        return ()
    returned = (caller() or [None])[0]
    if not isinstance(returned, Sequence):
        raise PluginError(f"{hook} returned a {type(returned).__name__}, not a list or tuple")
    return returned


def _collect(manager: pluggy.PluginManager, plugin: str, kind: Kind) -> dict[str, Spec]:
    specs: dict[str, Spec] = {}
    for spec in _returned(manager, f"distillkit_{kind}"):
        _check(spec, kind)
        if spec.name in specs:
            both = f'"{specs[spec.name].summary}" and "{spec.summary}"'
            raise PluginError(f'distillkit_{kind} offers the name "{spec.name}" twice: {both}')
        specs[spec.name] = replace(spec, plugin=plugin)
    return specs


def _check(spec: Any, kind: Kind) -> None:
    """Raise PluginError unless ``spec`` is a well-formed descriptor of its kind."""
    wanted, where = _SPEC_OF[kind], f"distillkit_{kind}"
    if not isinstance(spec, wanted):
        raise PluginError(f"{where} returned {spec!r:.80}, which is no {wanted.__name__}")
    if not (isinstance(spec.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name)):
        raise PluginError(f"{where}: {spec.name!r} is no name (letters, digits, '.', '_' and '-')")
    if not isinstance(spec.summary, str):
        raise PluginError(f'{where}: summary of "{spec.name}" is {spec.summary!r}, not a text')
    if not (isinstance(spec.config, type) and issubclass(spec.config, Options)):
        raise PluginError(
            f'{where}: config of "{spec.name}" is {spec.config!r}, not a subclass of Options'
        )
    if not (isinstance(spec.build, str) and re.fullmatch(r"[\w.]+:[\w.]+", spec.build)):
        raise PluginError(
            f'{where}: build of "{spec.name}" is {spec.build!r}, not "module:function"'
        )
    if isinstance(spec, TeacherSpec) and not (
        spec.capabilities and set(spec.capabilities) <= set(get_args(Capability))
    ):
        raise PluginError(
            f'{where}: capabilities of "{spec.name}" are {list(spec.capabilities)}, not "score", "output" or both'
        )


def _misspelt(module: Any) -> Iterator[str]:
    for name in dir(module):
        function = getattr(module, name, None)
        if not inspect.isroutine(function):
            continue
        options = getattr(function, f"{GROUP}_impl", None)
        hook = (options and options["specname"]) or name
        if hook in _HOOKS and not options:
            yield f"has a function {hook} without @hookimpl, so it is never called"
        elif hook not in _HOOKS and (options or hook.startswith(f"{GROUP}_")):
            yield f"has a hook {hook}, which does not exist{did_you_mean(f'{GROUP}_' + hook.removeprefix(f'{GROUP}_'), _HOOKS)}"


def _names(use: str, full_name: str) -> bool:
    return use in (full_name, full_name.partition("/")[2])


def _in_one_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
