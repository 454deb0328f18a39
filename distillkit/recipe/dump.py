"""Writing a resolved recipe: as TOML, or one line a value with what set it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w

from distillkit.recipe.document import Document
from distillkit.recipe.positions import KeyPath, children, dotted, quoted

MAX_ALIGNED = 80
"""Values that end beyond this column do not push the origins of the others further right."""


def to_toml(values: dict[str, Any]) -> str:
    """Write plain values (texts, numbers, dates, lists, tables) as TOML."""
    return tomli_w.dumps(values)


def with_origin(document: Document) -> str:
    """List every value of a document as ``key.path = value  # origin``."""
    rows = []
    for path, value in leaves(document.values):
        rows.append((f"{dotted(path)} = {inline(value)}", document.origin(path)))
    longest = max(len(setting) for setting, _ in rows)
    width = min(longest, MAX_ALIGNED)
    return "".join(f"{setting:<{width}}  # {origin}\n" for setting, origin in rows)


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Walk over every value of a document; lists of plain values stay whole.

    Args:
        value: a document's values, or a part of them.
        path: where ``value`` stands; the key paths found start with it.
    """
    if value and (isinstance(value, dict) or _is_table_array(value)):
        for key, entry in children(value):
            yield from leaves(entry, (*path, key))
    else:
        yield path, value


def inline(value: Any) -> str:
    """Write a value as it stands on the right of an equals sign, in one line."""
    # tomli_w breaks every list into lines of its own.
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case list() | tuple():
            entries = ", ".join(inline(entry) for entry in value)
            return f"[{entries}]"
        case dict() if value:
            pairs = (f"{dotted((key,))} = {inline(entry)}" for key, entry in value.items())
            return "{ " + ", ".join(pairs) + " }"
        case _:
            # Numbers, dates and the empty table read alike in Python and TOML.
            return str(value)


def _is_table_array(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
