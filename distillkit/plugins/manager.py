"""Finds the installed plugins and what they offer.

Each plugin has a pluggy manager of its own, so a plugin that fails takes nothing else down.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

import pluggy

from distillkit.console import logger
from distillkit.environment import unmet_requirements
from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins import hookspecs
from distillkit.plugins.descriptors import SPEC_TYPES, Kind, Spec
from distillkit.plugins.files import PluginFile, add_files, listed_files
from distillkit.plugins.hook_results import (
    collect_commands,
    collect_specs,
    find_folder,
    find_misspelled_hooks,
)
from distillkit.plugins.hookspecs import API_VERSION
from distillkit.plugins.stdout import divert_stdout

GROUP = "distillkit"
"""The entry-point group of plugins."""
ENGINE = EntryPoint("distillkit", "distillkit.metrics.builtin", GROUP)
"""The engine's own plugin. Its name, and the names of what it offers, are reserved."""

Point = EntryPoint | PluginFile
"""Where a plugin comes from."""

ONLY = "DISTILLKIT_PLUGINS"
"""Environment variable: the plugins to load, with commas between. Empty: none but the engine's."""
WITHOUT = "DISTILLKIT_WITHOUT_PLUGINS"
"""Environment variable: plugins that are switched off, as by ``--no-plugin``.

A variable, because the processes that a command starts have to do without them as well.
"""

SLOW_IMPORT = 1.0
"""Seconds of import from which a plugin is named as slow."""


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
    recipes: Path | None = None
    """The folder of its recipes."""
    trained: Path | None = None
    """The folder of its trained students."""
    problems: Sequence[str] = ()
    """Hooks that are misspelled or not marked: the plugin works without them."""
    error: str | None = None
    """Why it is broken, in one line."""
    traceback: str | None = None
    slow: str = ""
    """A warning that its import is slow, with the largest packages; empty where it is not."""
    observers: pluggy.PluginManager | None = None
    """Calls its hooks during a run; None once one of them has failed."""
    installed: Distribution | None = None
    """What brings it, where that is known."""

    def __str__(self) -> str:
        return f'plugin "{self.name}" ({self.distribution})'

    @property
    def complaint(self) -> str:
        """What to say of a broken plugin."""
        return f"{self} is broken: {self.error}"

    def unmet_requirements(self) -> list[str]:
        """List what its distribution requires and this machine lacks."""
        if self.installed is None:
            return []
        return list(unmet_requirements(self.installed.requires or []))

    def mark_broken(self, error: str) -> None:
        """Note why the plugin is broken, and drop all that it offers."""
        self.error = error
        self.specs = ()
        self.commands = {}
        self.recipes = None
        self.trained = None
        self.observers = None


class Plugins:
    """All installed plugins, the broken ones included."""

    def __init__(self, plugins: Iterable[Plugin], switched_off: Iterable[str] = ()) -> None:
        # Installed distributions come in no order that could be relied on.
        self.plugins = sorted(plugins, key=lambda plugin: plugin.name)
        self.switched_off = sorted(switched_off)
        """Names of installed plugins that are not loaded."""

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
            kind: The kind of what it names.
            use: A full name, or a short one where only one plugin offers it.

        Raises:
            PluginError: Nothing has that name, several have, or its plugin is broken.
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
            taken: Names of other commands.
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
                with divert_stdout():
                    observe(**arguments)
            except (Exception, SystemExit) as e:
                plugin.observers = None
                reason = _in_one_line(e)
                message = f"{plugin} failed in {hook} and is not called again: {reason}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    def explain_unavailable(self, name: str) -> str:
        """Say that a plugin is switched off or broken; empty where it is neither."""
        if name in self.switched_off:
            return f'plugin "{name}" is switched off, by {ONLY}, {WITHOUT} or --no-plugin'
        broken = [plugin for plugin in self.broken if plugin.name == name]
        if broken:
            return broken[0].complaint
        return ""

    def _named(self, kind: Kind, use: str) -> list[Spec]:
        return [spec for spec in self.specs(kind) if spec.is_named(use)]

    def _explain_unknown(self, kind: Kind, use: str) -> str:
        """Say why nothing of a kind is called ``use``, and what is."""
        owners = self._possible_owners(use)
        if "/" in use:
            absent = self._explain_absent(use, owners)
            if absent:
                return absent
        broken = [plugin.complaint for plugin in owners if plugin.error]
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

    def _explain_absent(self, use: str, owners: Sequence[Plugin]) -> str:
        """Say why the plugin of a full name offers nothing at all; empty where it is in order."""
        owner = use.partition("/")[0]
        if owner in self.switched_off:
            return f'"{use}": {self.explain_unavailable(owner)}'
        for plugin in owners:
            if plugin.error:
                return plugin.complaint
        if owners:
            return ""
        # No command that installs it: on a package index, anybody may have taken its name.
        absent = say_not_installed(owner, [plugin.name for plugin in self])
        return f'"{use}": {absent}; who wrote the recipe knows which package brings it'

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


def say_not_installed(name: str, installed: Iterable[str]) -> str:
    """Say that there is no plugin of a name, and which may be meant or which there are."""
    instead = did_you_mean(name, installed) or f"; installed: {_quoted(sorted(installed))}"
    return f'no plugin "{name}" is installed{instead}'


def load_plugins(points: Iterable[Point] | None = None) -> Plugins:
    """Import all plugins: those that are installed, and those that are files.

    It never raises: a plugin that fails is listed as broken.

    Args:
        points: Load these; without it, the installed plugins, found once per process.
    """
    if points is None:
        return _installed()
    return _load(points)


@functools.cache
def _installed() -> Plugins:
    points = _points()
    _warn_of_unknown_names({point.name for point in points})
    return _load(points)


def _warn_of_unknown_names(installed: Set[str]) -> None:
    """Warn of names in the variables that no plugin has.

    No error: a shell's profile sets them for every environment, and not each has every plugin.
    """
    for variable in (ONLY, WITHOUT):
        for name in sorted(_names_in(variable) - installed):
            logger.warning(f"{variable}: {say_not_installed(name, installed)}")


def _points() -> list[Point]:
    """List what names plugins: the installed entry points, and files."""
    return [*entry_points(group=GROUP), *listed_files()]


def add_plugin_files(names: Iterable[str]) -> None:
    """Use files as plugins, in this process and in those that it starts.

    Raises:
        PluginError: A file is missing, or its name cannot be that of a plugin.
    """
    add_files(names)
    _installed.cache_clear()


def switch_off_plugins(names: Iterable[str]) -> None:
    """Do without some plugins, in this process and in those that it starts.

    Raises:
        PluginError: No plugin has that name, or it is the engine's own.
    """
    known = {point.name for point in _points()}
    for name in names:
        if name not in known:
            raise PluginError(f"--no-plugin {name} - {say_not_installed(name, known)}")
        if name == ENGINE.name:
            raise PluginError(f'"{name}" is the engine itself, which cannot be switched off')
    os.environ[WITHOUT] = ",".join({*_names_in(WITHOUT), *names})
    _installed.cache_clear()


def _names_in(variable: str) -> set[str]:
    """Read names with commas between from an environment variable."""
    names = os.environ.get(variable, "").split(",")
    return {name.strip() for name in names if name.strip()}


def _is_switched_off(name: str) -> bool:
    if name == ENGINE.name:
        return False
    if ONLY in os.environ and name not in _names_in(ONLY):
        return True
    return name in _names_in(WITHOUT)


def _load(points: Iterable[Point]) -> Plugins:
    by_name: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point)
    switched_off = {name for name in by_name if _is_switched_off(name)}
    plugins: list[Plugin] = []
    for name, same_name in by_name.items():
        if name in switched_off:
            continue
        if name == ENGINE.name:
            plugins += _load_engine(same_name)
        elif len(same_name) == 1:
            plugins.append(_load_one(same_name[0]))
        else:
            plugins.append(_refuse_namesakes(same_name))
    _refuse_reserved_names(plugins)
    return Plugins(plugins, switched_off)


def _load_engine(points: Iterable[Point]) -> Iterator[Plugin]:
    """Load the engine's own plugin, and refuse others of its name."""
    for point in points:
        if point.value == ENGINE.value:
            yield _load_one(point)
        else:
            error = f'the name "{point.name}" is reserved for the engine; rename the plugin'
            yield Plugin(point.name, _distribution(point), error=error)


def _refuse_reserved_names(plugins: Iterable[Plugin]) -> None:
    """Refuse plugins that offer a name of the engine's own, so that its short name stays clear."""
    reserved: set[tuple[str, str]] = set()
    for plugin in plugins:
        if plugin.name == ENGINE.name:
            reserved |= {(spec.kind, spec.name) for spec in plugin.specs}
    for plugin in plugins:
        if plugin.name == ENGINE.name:
            continue
        taken = [spec for spec in plugin.specs if (spec.kind, spec.name) in reserved]
        if taken:
            kind, name = taken[0].kind, taken[0].name
            plugin.mark_broken(f'offers a {kind} "{name}", a name of the engine\'s own; rename it')


def _load_one(point: Point) -> Plugin:
    plugin = Plugin(point.name, _distribution(point), installed=point.dist)
    try:
        with divert_stdout():
            module = _import(point, plugin)
            _check_api_version(module, plugin)
            manager = pluggy.PluginManager(GROUP)
            manager.add_hookspecs(hookspecs)
            manager.register(module, plugin.name)
            specs = collect_specs(manager, plugin.name, plugin.distribution)
            commands = collect_commands(manager)
            recipes = find_folder(manager, "recipes")
            trained = find_folder(manager, "trained")
            problems = find_misspelled_hooks(module)
    except (Exception, SystemExit) as e:
        # Whatever a plugin does at import must not end the program.
        plugin.mark_broken(_in_one_line(e))
        plugin.traceback = traceback.format_exc()
    else:
        plugin.specs = specs
        plugin.commands = commands
        plugin.recipes = recipes
        plugin.trained = trained
        plugin.problems = problems
        plugin.observers = manager
    return plugin


def _check_api_version(module: Any, plugin: Plugin) -> None:
    """Refuse a plugin that states another version of the hooks than this one.

    Raises:
        PluginError: What to install is in the message.
    """
    stated = getattr(module, "DISTILLKIT_API", API_VERSION)
    if stated == API_VERSION:
        return
    if not isinstance(stated, int):
        raise PluginError(f"its DISTILLKIT_API is {stated!r}, not an integer")
    difference = f"it is made for version {stated} of the plugin API, distillkit has {API_VERSION}"
    if stated > API_VERSION:
        raise PluginError(f"{difference}; install a newer distillkit: pip install -U distillkit")
    newer = f"a newer {plugin.name}"
    if plugin.installed is not None:
        newer += f" ({plugin.installed.name})"
    raise PluginError(f"{difference}; install {newer}")


def _import(point: Point, plugin: Plugin) -> Any:
    """Import a plugin's module; note if that is slow, which every command then waits for."""
    present = set(sys.modules)
    started = time.monotonic()
    module = point.load()
    seconds = time.monotonic() - started
    logger.debug(f"{plugin} imported in {seconds:.2f} s")
    if seconds >= SLOW_IMPORT:
        plugin.slow = f"takes {seconds:.1f} s to import{_largest_imports(present)}"
    return module


def _largest_imports(present: Set[str]) -> str:
    """Name the packages of most modules among those imported since."""
    new = Counter(name.partition(".")[0] for name in sys.modules if name not in present)
    packages = [name for name, _ in new.most_common(3)]
    if not packages:
        return ""
    return f" ({', '.join(packages)}); import such packages inside its functions"


def _refuse_namesakes(points: Sequence[Point]) -> Plugin:
    name = points[0].name
    owners = " and ".join(_distribution(point) for point in points)
    clash = f'{len(points)} plugins are called "{name}" ({owners})'
    return Plugin(name, owners, error=f"{clash}; uninstall or rename all but one")


def _distribution(point: Point) -> str:
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
