"""Reading recipe files: TOML, ``extends``, ``--set``. The result is plain values and where each was set; nothing is validated."""

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
from distillkit.recipe.positions import KeyPath, dotted, key_lines, parse_key


@dataclass
class Document:
    """Merged values and their origins. A value without an origin of its own is a default."""

    name: str
    """The recipe file, as errors show it."""
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Overrides that could not be applied."""

    def get(self, path: KeyPath) -> Any:
        """The value at ``path``, or None."""
        value: Any = self.values
        part: Any
        for part in path:
            if not (
                (isinstance(value, dict) and part in value)
                or (isinstance(value, list) and part in range(len(value)))
            ):
                return None
            value = value[part]
        return value

    def origin(self, path: KeyPath) -> Origin:
        """What set ``path``; for a key that is not there, the table it is missing from."""
        if path in self.origins:
            return self.origins[path]
        if self.get(path) is not None:
            return DEFAULT
        return next(
            (
                self.origins[path[:n]]
                for n in range(len(path) - 1, 0, -1)
                if path[:n] in self.origins
            ),
            Origin(self.name, 1),
        )

    def set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Put ``value`` at ``path``, whose parent is there."""
        self.get(path[:-1])[path[-1]] = value
        for old in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[old]
        self.origins.update(dict.fromkeys(_paths(value, path), origin))

    def merge(self, over: Document) -> None:
        """Lay ``over`` on top: tables merge key by key, all else is replaced, and so is a table that names another ``use``."""
        self._merge(over.values, over, ())
        self.origins.update(over.origins)

    def _merge(self, table: dict[str, Any], over: Document, path: KeyPath) -> None:
        for key, value in table.items():
            own, here = self.get((*path, key)), (*path, key)
            both_tables = isinstance(own, dict) and isinstance(value, dict)
            if both_tables and ("use" not in own or value.get("use", own["use"]) == own["use"]):
                self._merge(value, over, here)
            else:
                self.set(here, value, over.origin(here))


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    yield path
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, entry in entries:
        yield from _paths(entry, (*path, key))


def read(
    path: Path | str, overrides: Iterable[str] = (), defaults: dict[str, Any] | None = None
) -> Document:
    """A recipe file, laid over the files it extends and over ``defaults``, with ``--set`` overrides laid over it.

    Raises:
        RecipeError: listing every file that is missing or no TOML, and every cycle.
    """
    problems: list[Problem] = []
    document = Document(str(path), defaults or {})
    document.merge(_read_file(Path(path), (), Origin(str(path)), (), problems))
    refuse(problems)
    for override in overrides:
        _apply(override, document)
    return document


def _read_file(
    path: Path, above: tuple[Path, ...], origin: Origin, key: KeyPath, problems: list[Problem]
) -> Document:
    """Read ``path`` and what it extends. ``origin`` and ``key``: the ``extends`` entry that names it; ``above``: who extend it."""
    document, chain = Document(str(path)), (*above, path)

    def stop(what: str, line: int | None = None) -> Document:
        problems.append(
            Problem(origin, key, what)
            if line is None
            else Problem(Origin(str(path), line), (), what)
        )
        return document

    if path.resolve() in (file.resolve() for file in above):
        return stop("the files extend each other in a circle: " + " -> ".join(map(str, chain)))
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        near = (
            [p.name for p in path.parent.glob("*.toml") if p not in above]
            if path.parent.is_dir()
            else []
        )
        return stop(f"no such file{': ' + str(path) if key else ''}{did_you_mean(path.name, near)}")
    except OSError as e:
        return stop(f"cannot be read: {e.strerror}")
    except UnicodeDecodeError:
        return stop("not a text file in UTF-8", 1)
    except tomllib.TOMLDecodeError as e:
        at = re.search(r"line (\d+)", str(e))
        what = re.sub(r" \(at .*\)$", "", str(e))
        return stop(
            f"not valid TOML: {what[0].lower()}{what[1:]}",
            int(at[1]) if at else len(text.splitlines()),
        )
    lines = {
        p: Origin(str(path), line, path.parent.absolute()) for p, line in key_lines(text).items()
    }
    bases = values.pop("extends", [])
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        problems.append(
            Problem(
                lines["extends",],
                ("extends",),
                f"expected a list of file names, got {describe(bases)}",
            )
        )
        return document
    for i, base in enumerate(bases):
        file = Path(os.path.normpath(path.parent / base))
        document.merge(_read_file(file, chain, lines["extends", i], ("extends", i), problems))
    document.merge(
        Document(str(path), values, {p: o for p, o in lines.items() if p[0] != "extends"})
    )
    return document


def _apply(override: str, document: Document) -> None:
    origin = Origin("--set", folder=Path.cwd())
    left, equals, right = override.partition("=")
    try:
        parts = parse_key(left.strip())
        if not equals:
            raise ValueError("expected key.path=VALUE")
        if parts[0] == "extends":
            raise ValueError("only a recipe file can extend others")
        value = _toml_value(right)
        if value is None:
            raise ValueError(
                f"{right.strip() or 'nothing'} is no TOML value; a string needs quotes: --set '{left}=\"{right.strip()}\"'"
            )
        _make_room(document, parts, origin)
        document.set(_indexed(document, parts), value, origin)
    except ValueError as e:
        document.problems.append(Problem(origin, (), f"{left.strip()} - {e}"))


def _toml_value(text: str) -> Any:
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None
    return values["value"] if len(values) == 1 else None


def _indexed(document: Document, parts: tuple[str, ...]) -> KeyPath:
    """``parts`` with those that stand for list entries made numbers."""
    path: KeyPath = ()
    for part in parts:
        parent = document.get(path)
        path = (*path, int(part) if isinstance(parent, list) and part.isdecimal() else part)
    return path


def _make_room(document: Document, parts: tuple[str, ...], origin: Origin) -> None:
    """Create the tables on the way to ``parts``; raise ValueError where a value that is no table is in the way."""
    for n in range(len(parts)):
        parent, path = (
            document.get(_indexed(document, parts[:n])),
            _indexed(document, parts[: n + 1]),
        )
        if isinstance(parent, list) and not (isinstance(path[-1], int) and path[-1] < len(parent)):
            raise ValueError(
                f"{dotted(path[:-1])} is a list of {len(parent)}, its entries are counted from 0"
            )
        if not isinstance(parent, list | dict):
            raise ValueError(f"{dotted(path[:-1])} is {describe(parent)}, not a table")
        if n < len(parts) - 1 and document.get(path) is None:
            document.set(path, {}, origin)
