"""Reading recipe files: TOML, ``extends``, ``--set``.

The result is plain values and where each was set; nothing is validated here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillkit.errors import DataError, PluginError, did_you_mean
from distillkit.files.text import read_text
from distillkit.plugins.manager import Plugins
from distillkit.plugins.recipes import find_recipe, is_recipe_file, suggest_recipe
from distillkit.recipe.errors import DEFAULT, Origin, Problem, describe_value, lower_first, refuse
from distillkit.recipe.key_paths import KeyPath, children, dotted, key_lines, parse_key


@dataclass
class Document:
    """Merged values and their origins; a value without an origin is a default."""

    name: str
    """The recipe file, as errors show it."""
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What was wrong with the files, and with overrides."""
    home: Path = field(default_factory=Path)
    """The folder that relative paths in the recipe start from."""

    def get(self, path: KeyPath) -> Any:
        """Return the value at ``path``, or None."""
        value: Any = self.values
        for key in path:
            if key not in dict(children(value)):
                return None
            value = value[key]
        return value

    def origin(self, path: KeyPath) -> Origin:
        """Return what set ``path``; for a missing key, what set its table."""
        if path not in self.origins and self.get(path) is not None:
            return DEFAULT
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path[:-1]
        return Origin(self.name, 1)

    def folder(self, path: KeyPath) -> Path:
        """Return the folder that relative paths at ``path`` start from."""
        origin = self.origin(path)
        if origin == DEFAULT:
            return self.home
        return origin.folder.absolute()

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Describe what is wrong with the value at ``path``, or with its absence."""
        return Problem(self.origin(path), path, message)

    def set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Put ``value`` at ``path``, whose table must exist."""
        table = self.get(path[:-1])
        table[path[-1]] = value
        for known in list(self.origins):
            if known[: len(path)] == path:
                del self.origins[known]
        for new in _paths(value, path):
            self.origins[new] = origin

    def merge(self, over: Document) -> None:
        """Lay ``over`` on top of this document.

        Tables merge key by key. Everything else is replaced, and so is a table that names
        another ``use``: its options would mean nothing to the new component.
        """
        self._merge_table(over, ())
        self.origins.update(over.origins)
        self.problems += over.problems

    def _merge_table(self, over: Document, path: KeyPath) -> None:
        for key, value in over.get(path).items():
            here = (*path, key)
            if _can_merge(self.get(here), value):
                self._merge_table(over, here)
            else:
                self.set(here, value, over.origin(here))


def read(
    name: str,
    plugins: Plugins,
    overrides: Iterable[str] = (),
    defaults: dict[str, Any] | None = None,
) -> Document:
    """Read a recipe and those that it extends, then apply overrides.

    Args:
        name: A recipe file, or the name of a plugin's recipe.
        plugins: Whose recipes may be named.
        overrides: ``key.path=VALUE`` texts of ``--set``. Those that cannot be applied become
            problems of the document.
        defaults: The values that the files are laid over.

    Raises:
        RecipeError: Listing every recipe that is missing or not TOML, and every cycle.
    """
    document = Document(name, defaults or {})
    try:
        own = _read_recipe(name, plugins)
        document.name = own.name
        document.home = own.home
        document.merge(own)
    except _CannotRead as e:
        origin = Origin(document.name)
        document.problems.append(Problem(origin, (), str(e)))
    refuse(document.problems)
    for override in overrides:
        _apply_override(override, document)
    return document


class _CannotRead(Exception):
    """A recipe file that is missing, cannot be read, or extends itself."""


def _read_recipe(name: str, plugins: Plugins, extended_by: tuple[Path, ...] = ()) -> Document:
    """Read a recipe and what it extends.

    Args:
        name: A file, or the name of a plugin's recipe.
        plugins: Whose recipes may be named.
        extended_by: The files that led here, the outermost first.

    Returns:
        The merged values, and as problems what is wrong inside the files.

    Raises:
        _CannotRead: The recipe itself cannot be read.
    """
    path, home = _locate(name, plugins)
    chain = (*extended_by, path)
    _refuse_cycle(chain)
    if not path.exists():
        raise _CannotRead(_missing_file(path, extended_by, plugins))
    own = _parse_file(path, home)
    document = Document(own.name, home=home)
    for key, base in _take_bases(own).items():
        try:
            base_name = _base_name(base, path, is_recipe_file(name))
            extended = _read_recipe(base_name, plugins, chain)
            document.merge(extended)
        except _CannotRead as e:
            problem = own.problem(key, str(e))
            own.problems.append(problem)
    document.merge(own)
    return document


def _locate(name: str, plugins: Plugins) -> tuple[Path, Path]:
    """Return a recipe's file, and the folder that relative paths in it start from.

    For a file that is its own folder. Nobody puts weights or photographs into an installed package,
    so for the recipe of a plugin it is the working folder, as for ``--set``.
    """
    if is_recipe_file(name):
        path = Path(name)
        return path, path.parent.absolute()
    try:
        return find_recipe(name, plugins).path, Path.cwd()
    except PluginError as e:
        raise _CannotRead(str(e)) from e


def _base_name(base: str, path: Path, is_file: bool) -> str:
    """Return an entry of ``extends`` as seen from the working folder.

    Args:
        base: The entry.
        path: The path of the recipe that it stands in.
        is_file: Whether that recipe was named as a file.
    """
    if not is_recipe_file(base):
        return base
    if not is_file:
        # In a copy of the recipe, elsewhere, a relative path would name another file.
        raise _CannotRead(f"a plugin's recipe extends others by name, plugin/recipe, not by {base}")
    return os.path.normpath(path.parent / base)


def _parse_file(path: Path, home: Path) -> Document:
    """Read a single file, without what it extends.

    If it is not TOML, the document has a problem and no values.
    """
    document = Document(str(path), home=home)
    try:
        text = read_text(path)
        document.values = tomllib.loads(text)
    except OSError as e:
        raise _CannotRead(f"cannot be read: {e.strerror}") from e
    except tomllib.TOMLDecodeError as e:
        document.problems = [_syntax_problem(path, text, e)]
        return document
    except DataError as e:
        first_line = Origin(document.name, 1)
        document.problems = [Problem(first_line, (), str(e))]
        return document
    for key, line in key_lines(text).items():
        document.origins[key] = Origin(document.name, line, home)
    return document


def _refuse_cycle(chain: tuple[Path, ...]) -> None:
    *above, last = (file.resolve() for file in chain)
    if last in above:
        names = " -> ".join(map(str, chain))
        raise _CannotRead(f"the files extend each other in a circle: {names}")


def _missing_file(path: Path, extended_by: tuple[Path, ...], plugins: Plugins) -> str:
    """Say that a file is missing, and which recipe may be meant."""
    present = set(path.parent.glob("*.toml"))
    present -= set(extended_by)
    names = [file.name for file in present]
    suggestion = did_you_mean(path.name, names) or suggest_recipe(path.name, plugins)
    if not extended_by:
        # The line that reports it begins with the file's name.
        return f"no such file{suggestion}"
    return f"no such file: {path}{suggestion}"


def _syntax_problem(path: Path, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    # "Invalid value (at line 2, column 5)", or "... (at end of document)"
    message, _, position = str(error).partition(" (at ")
    line = len(text.splitlines())
    stated = re.match(r"line (\d+)", position)
    if stated:
        line = int(stated[1])
    origin = Origin(str(path), line)
    return Problem(origin, (), f"not valid TOML: {lower_first(message)}")


def _take_bases(document: Document) -> dict[KeyPath, str]:
    """Remove the ``extends`` list and return its entries by key path."""
    bases = document.values.pop("extends", [])
    if not _is_list_of_strings(bases):
        message = f"expected a list of recipes, got {describe_value(bases)}"
        problem = document.problem(("extends",), message)
        document.problems.append(problem)
        return {}
    entries: dict[KeyPath, str] = {}
    for i, name in enumerate(bases):
        entries["extends", i] = name
    return entries


def _is_list_of_strings(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(entry, str) for entry in value)


def _can_merge(old: Any, new: Any) -> bool:
    """Whether both are tables, and tables of the same ``use``."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    if "use" not in old or "use" not in new:
        return True
    return old["use"] == new["use"]


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Walk over ``path`` and every key path below it."""
    yield path
    for key, entry in children(value):
        yield from _paths(entry, (*path, key))


def _apply_override(override: str, document: Document) -> None:
    """Set the value of a ``key.path=VALUE`` text, or add a problem where that is impossible."""
    key, equals, text = override.partition("=")
    key = key.strip()
    origin = Origin("--set", folder=Path.cwd())
    try:
        parts = parse_key(key)
        if not equals:
            raise ValueError("expected key.path=VALUE")
        if parts[0] == "extends":
            raise ValueError("only a recipe file can extend others")
        value = _parse_value(key, text.strip())
        path = _make_room(document, parts, origin)
    except ValueError as e:
        problem = Problem(origin, (), f"{key} - {e}")
        document.problems.append(problem)
        return
    document.set(path, value, origin)


def _parse_value(key: str, text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        values = {}
    # A text with line breaks could hold further keys.
    if values.keys() == {"value"}:
        return values["value"]
    message = f"{text or 'nothing'} is not a TOML value; a string needs quotes"
    raise ValueError(f"{message}: --set '{key}=\"{text}\"'")


def _make_room(document: Document, parts: tuple[str, ...], origin: Origin) -> KeyPath:
    """Create the missing tables on the way to a key.

    Returns:
        The key's path, with numbers for the parts that stand for list entries.

    Raises:
        ValueError: A value that is not a table is in the way.
    """
    path: KeyPath = ()
    for part in parts:
        if document.get(path) is None:
            document.set(path, {}, origin)
        key = _key_in(document, path, part)
        path = (*path, key)
    return path


def _key_in(document: Document, path: KeyPath, part: str) -> str | int:
    """Return ``part`` as a key of a table, or as an index of a list.

    Args:
        document: The document.
        path: Where the table or list stands.
        part: A part of a dotted key.
    """
    parent = document.get(path)
    if isinstance(parent, dict):
        return part
    if not isinstance(parent, list):
        raise ValueError(f"{dotted(path)} is {describe_value(parent)}, not a table")
    count = len(parent)
    if part.isdecimal() and int(part) < count:
        return int(part)
    raise ValueError(f"{dotted(path)} is a list of {count}, its entries are counted from 0")
