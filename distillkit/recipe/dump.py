"""Writing a resolved recipe: as TOML, or line by line with origins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w

from distillkit.recipe.document import Document
from distillkit.recipe.key_paths import KeyPath, children, dotted, quoted

MAX_ALIGNED = 80
"""Values that end beyond this column do not push the origins of the others further right."""


def to_toml(values: dict[str, Any]) -> str:
    """Write plain values (texts, numbers, dates, lists, tables) as TOML."""
    return tomli_w.dumps(values)


def with_origin(document: Document) -> str:
    """List every value of a document as ``key.path = value  # origin``."""
    origins = {}
    for path, value in leaves(document.values):
        setting = _assignment(path, value)
        origins[setting] = document.origin(path)
    width = min(MAX_ALIGNED, max(map(len, origins)))
    text = ""
    for setting, origin in origins.items():
        text += f"{setting:<{width}}  # {origin}\n"
    return text


def origins(document: Document) -> dict[str, dict[str, Any]]:
    """Return value and origin of every key path of a document."""
    found = {}
    for path, value in leaves(document.values):
        found[dotted(path)] = {"value": value, "origin": document.origin(path)}
    return found


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Walk over every value of a document; lists of plain values stay whole.

    Args:
        value: A document's values, or a part of them.
        path: Where ``value`` stands; the key paths found start with it.
    """
    if not _has_keys(value):
        yield path, value
        return
    for key, entry in children(value):
        yield from leaves(entry, (*path, key))


def format_value(value: Any) -> str:
    """Write a value as it stands on the right of an equals sign, in one line."""
    # tomli_w breaks every list into lines of its own.
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case list() | tuple():
            entries = ", ".join(map(format_value, value))
            return f"[{entries}]"
        case dict() if value:
            settings = [_assignment((key,), entry) for key, entry in value.items()]
            return f"{{ {', '.join(settings)} }}"
        case _:
            # Numbers, dates and the empty table read alike in Python and TOML.
            return str(value)


def _assignment(path: KeyPath, value: Any) -> str:
    return f"{dotted(path)} = {format_value(value)}"


def _has_keys(value: Any) -> bool:
    """Whether a value is a table, or a list of tables, that is not empty."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, dict) for entry in value)
    return bool(value) and isinstance(value, dict)
