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
from distillkit.plugins.descriptors import SPEC_TYPES, Kind, Spec
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
    specs: Sequence[Spec] = ()
    """Its descriptors; empty for a broken plugin."""
    commands: Mapping[str, Any] = field(default_factory=dict)
    """Its commands by name, as typer makes them."""
    problems: Sequence[str] = ()
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
        # Installed distributions come in no order that could be relied on.
        self.plugins = sorted(plugins, key=lambda plugin: plugin.name)

    def __iter__(self) -> Iterator[Plugin]:
        return iter(self.plugins)

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that do not load."""
        return [plugin for plugin in self if plugin.error]

    def specs(self, kind: Kind) -> list[Spec]:
        """List the descriptors of a kind."""
        spec_type = SPEC_TYPES[kind]
        specs: list[Spec] = []
        for plugin in self:
            specs += [spec for spec in plugin.specs if isinstance(spec, spec_type)]
        return specs

    def find(self, kind: Kind, use: str) -> Spec:
        """Return the descriptor that ``use`` names.

        Args:
            kind: of what it names.
            use: a full name, or a short one where only one plugin offers it.

        Raises:
            PluginError: nothing has that name, several have, or its plugin is broken.
        """
        named = self._named(kind, use)
        if not named:
            raise PluginError(self._explain_unknown(kind, use))
        if len(named) > 1:
            full_names = _quoted(spec.full_name for spec in named)
            raise PluginError(f'"{use}" is offered by several plugins; say which: {full_names}')
        return named[0]

    def commands(self, taken: Iterable[str] = ()) -> dict[str, Any]:
        """Return the plugins' commands by the name to type.

        That is the short name, or ``"<plugin>/<name>"`` where something else has the same.

        Args:
            taken: names of other commands.
        """
        count = Counter(list(taken))
        for plugin in self:
            count.update(plugin.commands.keys())
        commands = {}
        for plugin in self:
            for name, command in plugin.commands.items():
                typed = name
                if count[name] > 1:
                    typed = f"{plugin.name}/{name}"
                commands[typed] = command
        return commands

    def notify(self, hook: str, /, **arguments: Any) -> None:
        """Call an observer hook (``"distillkit_step"``, ...) of every plugin that has it.

        A plugin whose observer raises is warned of once, and observes no more.
        """
        for plugin in self:
            if plugin.observers is None:
                continue
            # A hook that does not exist is the caller's mistake, so this is not guarded.
            observe = getattr(plugin.observers.hook, hook)
            try:
                observe(**arguments)
            except Exception as e:
                plugin.observers = None
                reason = _in_one_line(e)
                message = f"{plugin} failed in {hook} and is not called again: {reason}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _named(self, kind: Kind, use: str) -> list[Spec]:
        return [spec for spec in self.specs(kind) if spec.is_named(use)]

    def _explain_unknown(self, kind: Kind, use: str) -> str:
        """Say why nothing of a kind is called ``use``, and what is."""
        owners = self._possible_owners(use)
        broken = [f"{plugin} is broken: {plugin.error}" for plugin in owners if plugin.error]
        if broken and "/" in use:
            return broken[0]
        other_kinds = self._other_kinds(use)
        if other_kinds:
            return f'"{use}" is among the {other_kinds}, not the {kind}'
        known, suggestion = self._list_known(kind, use)
        reasons = [f'no plugin offers "{use}" among its {kind}{suggestion}', *broken]
        if not suggestion:
            reasons.append(known)
        for plugin in owners:
            reasons += [f"{plugin} {problem}" for problem in plugin.problems]
        return "; ".join(reasons)

    def _possible_owners(self, use: str) -> list[Plugin]:
        owner, slash, _ = use.partition("/")
        if not slash:
            return list(self)
        return [plugin for plugin in self if plugin.name == owner]

    def _other_kinds(self, use: str) -> str:
        kinds = [kind for kind in get_args(Kind) if self._named(kind, use)]
        return " and ".join(kinds)

    def _list_known(self, kind: Kind, use: str) -> tuple[str, str]:
        """List the names of a kind, and suggest the one that may be meant."""
        specs = self.specs(kind)
        if not specs:
            return f"no installed plugin offers {kind}", ""
        full_names = [spec.full_name for spec in specs]
        short_names = [spec.name for spec in specs]
        return f"known: {_quoted(full_names)}", did_you_mean(use, full_names + short_names)


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
    plugins = []
    for same_name in by_name.values():
        if len(same_name) == 1:
            plugins.append(_load_one(same_name[0]))
        else:
            plugins.append(_refuse_namesakes(same_name))
    return Plugins(plugins)


def _load_one(point: EntryPoint) -> Plugin:
    plugin = Plugin(point.name, _distribution(point))
    try:
        module = point.load()
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module, plugin.name)
        specs = collect_specs(manager, plugin.name)
        commands = collect_commands(manager)
        problems = find_misspelled_hooks(module)
    except (Exception, SystemExit) as e:
        # Whatever a plugin does at import must not end the program.
        plugin.error = _in_one_line(e)
        plugin.traceback = traceback.format_exc()
    else:
        plugin.specs = specs
        plugin.commands = commands
        plugin.problems = problems
        plugin.observers = manager
    return plugin


def _refuse_namesakes(points: Sequence[EntryPoint]) -> Plugin:
    name = points[0].name
    owners = " and ".join(_distribution(point) for point in points)
    clash = f'{len(points)} plugins are called "{name}" ({owners})'
    return Plugin(name, owners, error=f"{clash}; uninstall all but one")


def _distribution(point: EntryPoint) -> str:
    if point.dist is None:
        return point.value
    return f"{point.dist.name} {point.dist.version}"


def _in_one_line(error: BaseException) -> str:
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error, PluginError):
        return first_line
    return f"{type(error).__name__}: {first_line}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
