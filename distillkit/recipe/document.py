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

from distillkit.errors import did_you_mean
from distillkit.recipe.errors import DEFAULT, Origin, Problem, describe, refuse
from distillkit.recipe.positions import KeyPath, children, dotted, key_lines, parse_key


@dataclass
class Document:
    """Merged values and their origins; a value without an origin is a default."""

    name: str
    """The recipe file, as errors show it."""
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Overrides that could not be applied."""

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
        if path in self.origins:
            return self.origins[path]
        if self.get(path) is not None:
            return DEFAULT
        for depth in range(len(path) - 1, 0, -1):
            if path[:depth] in self.origins:
                return self.origins[path[:depth]]
        return Origin(self.name, 1)

    def folder(self, path: KeyPath) -> Path:
        """Return the folder that relative paths at ``path`` start from."""
        origin = self.origin(path)
        if origin == DEFAULT:
            return Path(self.name).parent.absolute()
        return origin.folder.absolute()

    def set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Put ``value`` at ``path``, whose table must exist."""
        self.get(path[:-1])[path[-1]] = value
        replaced = [old for old in self.origins if old[: len(path)] == path]
        for old in replaced:
            del self.origins[old]
        for new in _paths(value, path):
            self.origins[new] = origin

    def merge(self, over: Document) -> None:
        """Lay ``over`` on top of this document.

        Tables merge key by key. Everything else is replaced, and so is a table that names
        another ``use``: its options would mean nothing to the new component.
        """
        self._merge_table((), over.values, over)
        self.origins.update(over.origins)

    def _merge_table(self, path: KeyPath, table: dict[str, Any], over: Document) -> None:
        for key, value in table.items():
            here = (*path, key)
            if _can_merge(self.get(here), value):
                self._merge_table(here, value, over)
            else:
                self.set(here, value, over.origin(here))


@dataclass(frozen=True)
class _Mention:
    """A file, and where it is named: on the command line or in an ``extends`` list."""

    path: Path
    origin: Origin
    key: KeyPath = ()
    """The ``extends`` entry; empty on the command line."""
    extended_by: tuple[Path, ...] = ()
    """The files that led here, the outermost first."""


class _Unreadable(Exception):
    """A recipe file that cannot be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read(
    path: Path | str, overrides: Iterable[str] = (), defaults: dict[str, Any] | None = None
) -> Document:
    """Read a recipe file and the files it extends, then apply overrides.

    Args:
        path: the recipe file.
        overrides: ``key.path=VALUE`` texts of ``--set``. Those that cannot be applied become
            problems of the document.
        defaults: the values that the files are laid over.

    Raises:
        RecipeError: listing every file that is missing or not TOML, and every cycle.
    """
    problems: list[Problem] = []
    document = Document(str(path), defaults or {})
    document.merge(_read_file(_Mention(Path(path), Origin(str(path))), problems))
    refuse(problems)
    for override in overrides:
        _apply_override(override, document)
    return document


def _read_file(mention: _Mention, problems: list[Problem]) -> Document:
    """Read a file and what it extends; add to ``problems`` what is wrong.

    A file that cannot be read counts as an empty one, so that all problems are found at once.
    """
    path = mention.path
    document = Document(str(path))
    try:
        _refuse_cycle(mention)
        text = _read_text(mention)
        values = _parse(text, path)
        folder = path.parent.absolute()
        origins = {key: Origin(str(path), line, folder) for key, line in key_lines(text).items()}
        bases = _take_bases(values, origins)
    except _Unreadable as e:
        problems.append(e.problem)
        return document
    for i, name in enumerate(bases):
        key: KeyPath = ("extends", i)
        base = Path(os.path.normpath(path.parent / name))
        named = _Mention(base, origins[key], key, (*mention.extended_by, path))
        document.merge(_read_file(named, problems))
    own_origins = {key: origin for key, origin in origins.items() if key[0] != "extends"}
    document.merge(Document(str(path), values, own_origins))
    return document


def _read_text(mention: _Mention) -> str:
    path = mention.path
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = _missing_file(mention)
    except UnicodeDecodeError:
        problem = Problem(Origin(str(path), 1), (), "not a text file in UTF-8")
        raise _Unreadable(problem) from None
    except OSError as e:
        message = f"cannot be read: {e.strerror}"
    raise _Unreadable(Problem(mention.origin, mention.key, message))


def _refuse_cycle(mention: _Mention) -> None:
    resolved = [file.resolve() for file in mention.extended_by]
    if mention.path.resolve() in resolved:
        chain = " -> ".join(str(file) for file in (*mention.extended_by, mention.path))
        message = f"the files extend each other in a circle: {chain}"
        raise _Unreadable(Problem(mention.origin, mention.key, message))


def _missing_file(mention: _Mention) -> str:
    """Say that a file is missing, and which one may be meant."""
    path = mention.path
    others = [file for file in path.parent.glob("*.toml") if file not in mention.extended_by]
    suggestion = did_you_mean(path.name, [file.name for file in others])
    if not mention.key:  # the line begins with the file's name already
        return f"no such file{suggestion}"
    return f"no such file: {path}{suggestion}"


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        # "Invalid value (at line 2, column 5)", or "... (at end of document)"
        message, _, position = str(e).partition(" (at ")
        line = re.match(r"line (\d+)", position)
        number = int(line[1]) if line else len(text.splitlines())
        message = message[0].lower() + message[1:]
        problem = Problem(Origin(str(path), number), (), f"not valid TOML: {message}")
        raise _Unreadable(problem) from None


def _take_bases(values: dict[str, Any], origins: dict[KeyPath, Origin]) -> list[str]:
    """Remove the ``extends`` list from a file's values and return it."""
    bases = values.pop("extends", [])
    if isinstance(bases, list) and all(isinstance(name, str) for name in bases):
        return bases
    key: KeyPath = ("extends",)
    message = f"expected a list of file names, got {describe(bases)}"
    raise _Unreadable(Problem(origins[key], key, message))


def _can_merge(old: Any, new: Any) -> bool:
    """Tell whether both are tables, and tables of the same ``use``."""
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
    """Set what ``key.path=VALUE`` says, or note why that is impossible."""
    origin = Origin("--set", folder=Path.cwd())
    key = override.partition("=")[0].strip()
    try:
        parts, value = _parse_override(override)
        path = _make_room(document, parts, origin)
        document.set(path, value, origin)
    except ValueError as e:
        document.problems.append(Problem(origin, (), f"{key} - {e}"))


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """Split ``key.path=VALUE`` into the parts of the key and the value.

    Raises:
        ValueError: saying what is wrong with it.
    """
    left, equals, right = override.partition("=")
    parts = parse_key(left.strip())
    if not equals:
        raise ValueError("expected key.path=VALUE")
    if parts[0] == "extends":
        raise ValueError("only a recipe file can extend others")
    return parts, _parse_value(left, right.strip())


def _parse_value(key: str, text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        values = {}
    # A text with line breaks could hold further keys.
    if len(values) == 1:
        return values["value"]
    message = f"{text or 'nothing'} is not a TOML value; a string needs quotes"
    raise ValueError(f"{message}: --set '{key}=\"{text}\"'")


def _make_room(document: Document, parts: tuple[str, ...], origin: Origin) -> KeyPath:
    """Create the missing tables on the way to a key.

    Returns:
        the key's path, with numbers for the parts that stand for list entries.

    Raises:
        ValueError: a value that is not a table is in the way.
    """
    path: KeyPath = ()
    for depth, part in enumerate(parts, 1):
        parent = document.get(path)
        key = _key_in(parent, part, path)
        path = (*path, key)
        if depth < len(parts) and document.get(path) is None:
            document.set(path, {}, origin)
    return path


def _key_in(parent: Any, part: str, path: KeyPath) -> str | int:
    """Return ``part`` as a key of the table, or as an index of the list, at ``path``."""
    if isinstance(parent, dict):
        return part
    if not isinstance(parent, list):
        raise ValueError(f"{dotted(path)} is {describe(parent)}, not a table")
    if part.isdecimal() and int(part) < len(parent):
        return int(part)
    count = len(parent)
    raise ValueError(f"{dotted(path)} is a list of {count}, its entries are counted from 0")
