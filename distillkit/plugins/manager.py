"""Finds the installed plugins and what they offer.

Each plugin has a pluggy manager of its own, so a plugin that fails takes nothing else down.
"""

from __future__ import annotations

import functools
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

import pluggy

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import Kind, Spec
from distillkit.plugins.offers import collect_commands, collect_specs, find_misspelled_hooks

GROUP = "distillkit"
"""The entry-point group of plugins."""


@dataclass
class Plugin:
    """One entry point of the group: working, or broken with the reason why."""

    name: str
    """The entry point's name, the part of a full name before the slash."""
    distribution: str
    """Name and version of the distribution that brings it."""
    specs: Mapping[Kind, Mapping[str, Spec]] = field(default_factory=dict)
    """Its descriptors by kind and short name; empty for a broken plugin."""
    commands: Mapping[str, Any] = field(default_factory=dict)
    """Its commands by name, as typer makes them."""
    problems: tuple[str, ...] = ()
    """Hooks that are misspelled or not marked: the plugin works without them."""
    error: str | None = None
    """Why it is broken, in one line."""
    traceback: str | None = None
    observers: pluggy.PluginManager | None = None
    """Calls its hooks during a run; None once one of them has failed."""

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
        """The plugins that do not load."""
        return [p for p in self if p.error]

    def specs(self, kind: Kind) -> dict[str, Spec]:
        """Return the descriptors of a kind by full name (``"<plugin>/<name>"``)."""
        specs = {}
        for plugin in self:
            for name, spec in plugin.specs.get(kind, {}).items():
                specs[f"{plugin.name}/{name}"] = spec
        return specs

    def find(self, kind: Kind, use: str) -> tuple[str, Spec]:
        """Return the full name and the descriptor of what ``use`` names.

        Args:
            kind: of what it names.
            use: a full name, or a short one where only one plugin offers it.

        Raises:
            PluginError: nothing has that name, several have, or its plugin is broken.
        """
        named = self._named(kind, use)
        if len(named) == 1:
            return next(iter(named.items()))
        if named:
            raise PluginError(f'"{use}" is offered by several plugins; say which: {_quoted(named)}')
        raise PluginError(self._explain_unknown(kind, use))

    def commands(self, taken: Iterable[str] = ()) -> dict[str, Any]:
        """Return the plugins' commands by the name to type.

        That is the short name, or ``"<plugin>/<name>"`` where something else has the same.

        Args:
            taken: names of other commands.
        """
        offered = [(plugin, name) for plugin in self for name in plugin.commands]
        count = Counter([*taken, *(name for _, name in offered)])
        commands = {}
        for plugin, name in offered:
            typed = name
            if count[name] > 1:
                typed = f"{plugin.name}/{name}"
            commands[typed] = plugin.commands[name]
        return commands

    def notify(self, hook: str, /, **arguments: Any) -> None:
        """Call an observer hook (``"distillkit_step"``, ...) of every plugin that has it.

        A plugin whose observer raises is warned of once, and observes no more.
        """
        for plugin in self:
            if plugin.observers is None:
                continue
            call = getattr(plugin.observers.hook, hook)
            try:
                call(**arguments)
            except Exception as e:
                plugin.observers = None
                reason = f"failed in {hook} and is not called again: {_in_one_line(e)}"
                warnings.warn(f"{plugin} {reason}", RuntimeWarning, stacklevel=2)

    def _named(self, kind: Kind, use: str) -> dict[str, Spec]:
        specs = self.specs(kind).items()
        return {name: spec for name, spec in specs if use in (name, spec.name)}

    def _explain_unknown(self, kind: Kind, use: str) -> str:
        owner, slash, _ = use.partition("/")
        possible = [p for p in self if not slash or p.name == owner]
        broken = [f"{p} is broken: {p.error}" for p in possible if p.error]
        if slash and broken:
            return "; ".join(broken)
        other_kinds = [other for other in get_args(Kind) if self._named(other, use)]
        if other_kinds:
            return f'"{use}" is among the {" and ".join(other_kinds)}, not the {kind}'
        problems = [f"{p} {problem}" for p in possible for problem in p.problems]
        known, suggestion = self._suggest(kind, use)
        reason = f'no plugin offers "{use}" among its {kind}{suggestion}'
        if suggestion:
            return "; ".join([reason, *broken, *problems])
        return "; ".join([reason, *broken, known, *problems])

    def _suggest(self, kind: Kind, use: str) -> tuple[str, str]:
        """List the names of a kind, and pick the one that may be meant."""
        specs = self.specs(kind)
        if not specs:
            return f"no installed plugin offers {kind}", ""
        short_names = [spec.name for spec in specs.values()]
        return f"known: {_quoted(specs)}", did_you_mean(use, [*specs, *short_names])


def load_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Import every plugin of the entry-point group ``distillkit``.

    It never raises: a plugin that fails is listed as broken.

    Args:
        points: load these; without it, the installed plugins, found once per process.
    """
    if points is None:
        return _installed()
    return _load(points)


@functools.cache
def _installed() -> Plugins:
    return _load(entry_points(group=GROUP))


def _load(points: Iterable[EntryPoint]) -> Plugins:
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point)
    return Plugins(_load_one(same_name) for same_name in by_name.values())


def _load_one(same_name: Sequence[EntryPoint]) -> Plugin:
    point = same_name[0]
    if len(same_name) > 1:
        owners = " and ".join(_distribution(p) for p in same_name)
        clash = f'{len(same_name)} plugins are called "{point.name}" ({owners})'
        return Plugin(point.name, owners, error=f"{clash}; uninstall all but one")
    try:
        module = point.load()
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module, point.name)
        return Plugin(
            point.name,
            _distribution(point),
            specs=collect_specs(manager, point.name),
            commands=collect_commands(manager),
            problems=tuple(find_misspelled_hooks(module)),
            observers=manager,
        )
    except (Exception, SystemExit) as e:
        return Plugin(
            point.name,
            _distribution(point),
            error=_in_one_line(e),
            traceback=traceback.format_exc(),
        )


def _distribution(point: EntryPoint) -> str:
    if point.dist is None:
        return point.value
    return f"{point.dist.name} {point.dist.version}"


def _in_one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, PluginError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
