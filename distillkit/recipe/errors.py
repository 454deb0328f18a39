"""What is wrong with a recipe, in lines a person can act on: ``file:line  key.path - what; did you mean "…"?``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from distillkit.errors import RecipeError, did_you_mean
from distillkit.recipe.positions import KeyPath, dotted


@dataclass(frozen=True, order=True)
class Origin:
    """What set a value: a line of a file, ``--set``, or nobody (``default``)."""

    source: str
    line: int = 0
    folder: Path = field(default=Path(), compare=False)
    """Relative paths are relative to it."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


DEFAULT = Origin("default")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong. ``details`` are further lines."""

    origin: Origin
    key: KeyPath
    what: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.origin}  {dotted(self.key)} - " if self.key else f"{self.origin}  "
        return "\n".join([where + self.what, *(f"    {line}" for line in self.details)])


def refuse(problems: Iterable[Problem]) -> None:
    """Raise one RecipeError that lists every problem by file and line; do nothing if there is none."""
    lines = dict.fromkeys(str(p) for p in sorted(problems, key=lambda p: p.origin))
    if lines:
        raise RecipeError("\n".join(lines))


def explain(error: ErrorDetails, known: Iterable[str] = ()) -> str:
    """One of pydantic's errors in words.

    Args:
        known: the keys that the table knows, to suggest one for a misspelt key.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + did_you_mean(str(error["loc"][-1]), known)
    if kind == "missing":
        return "missing"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind in ("literal_error", "enum"):
        options = context["expected"].replace("'", '"')
        return f"expected {options}, got {describe(value)}{_suggestion(value, options)}"
    if kind in ("too_short", "too_long"):
        bound = (
            f"at least {context['min_length']}"
            if kind == "too_short"
            else f"at most {context['max_length']}"
        )
        return f"expected {bound} entries, got {context['actual_length']}"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**context)}, got {describe(value)}"
    for beginning, expected in _EXPECTED.items():
        if kind.startswith(beginning):
            return f"expected {expected}, got {describe(value)}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {describe(value)}"


_BOUNDS = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "finite_number": "finite",
    "string_pattern_mismatch": 'of the form "{pattern}"',
}

_EXPECTED = {
    "int_": "an integer",
    "float_": "a number",
    "bool_": "true or false",
    "string_": "a string",
    "path_": "a path",
    "list_": "a list",
    "tuple_": "a list",
    "set_": "a list",
    "dict_": "a table",
    "model_": "a table",
}


def _suggestion(value: Any, options: str) -> str:
    return did_you_mean(value, re.findall(r'"(.*?)"', options)) if isinstance(value, str) else ""


def describe(value: Any) -> str:
    """A TOML value with its type, shortened."""
    match value:
        case bool():
            return f"the boolean {str(value).lower()}"
        case str():
            return f"a string {json.dumps(value if len(value) <= 60 else value[:57] + '...', ensure_ascii=False)}"
        case int():
            return f"an integer {value}"
        case float():
            return f"a number {value}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "a table"
        case _:
            return f"{type(value).__name__} {value}"
