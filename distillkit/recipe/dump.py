"""Writing a resolved recipe: as TOML, and line by line with what set each value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distillkit.recipe.document import Document
from distillkit.recipe.positions import KeyPath, dotted, quoted


def to_toml(values: dict[str, Any]) -> str:
    """Plain values (texts, numbers, dates, lists, tables) as a TOML document."""
    return "\n".join(_table(values, ())).strip() + "\n"


def with_origin(document: Document) -> str:
    """``key.path = value  # origin`` for every value of a document, aligned."""
    rows = [
        (f"{dotted(path)} = {inline(value)}", str(document.origin(path)))
        for path, value in leaves(document.values, ())
    ]
    width = min(max(len(left) for left, _ in rows), 80)
    return "".join(f"{left:<{width}}  # {origin}\n" for left, origin in rows)


def inline(value: Any) -> str:
    """A value as it stands on the right of an equals sign."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case list() | tuple():
            return f"[{', '.join(map(inline, value))}]"
        case dict():
            return (
                "{ "
                + ", ".join(f"{dotted((key,))} = {inline(entry)}" for key, entry in value.items())
                + " }"
                if value
                else "{}"
            )
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _table(values: dict[str, Any], path: KeyPath) -> Iterator[str]:
    """The lines of a table: its plain values first, then its tables."""
    tables = {
        key: value
        for key, value in values.items()
        if isinstance(value, dict) or _is_table_array(value)
    }
    yield from (
        f"{dotted((key,))} = {inline(value)}" for key, value in values.items() if key not in tables
    )
    for key, value in tables.items():
        here = (*path, key)
        for entry in value if isinstance(value, list) else [value]:
            lines = list(_table(entry, here))
            if isinstance(value, list):
                yield f"\n[[{dotted(here)}]]"
            elif not (
                lines and lines[0].startswith("\n")
            ):  # a table of tables needs no header of its own
                yield f"\n[{dotted(here)}]"
            yield from lines


def _is_table_array(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
    )


def leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a document with its key path, which starts with ``path``; lists of plain values stay whole."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from leaves(entry, (*path, key))
    elif _is_table_array(value):
        for i, entry in enumerate(value):
            yield from leaves(entry, (*path, i))
    else:
        yield path, value
