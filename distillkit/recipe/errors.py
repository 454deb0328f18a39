"""Problems of a recipe, each as a line for the user.

Each reads ``file:line  key.path - message; did you mean "..."?``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from distillkit.errors import RecipeError, did_you_mean
from distillkit.recipe.key_paths import KeyPath, dotted


@dataclass(frozen=True, order=True)
class Origin:
    """What set a value: a line of a file, ``--set``, or a default of the schema."""

    source: str
    line: int = 0
    folder: Path = field(default=Path(), compare=False)
    """The folder that relative paths start from."""

    def __str__(self) -> str:
        if not self.line:
            return self.source
        return f"{self.source}:{self.line}"


DEFAULT = Origin("default")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a recipe."""

    origin: Origin
    key: KeyPath
    message: str
    details: tuple[str, ...] = ()
    """Further lines, shown indented."""

    def __str__(self) -> str:
        first = f"{self.origin}  {self.message}"
        if self.key:
            first = f"{self.origin}  {dotted(self.key)} - {self.message}"
        details = [f"    {line}" for line in self.details]
        return "\n".join([first, *details])


def refuse(problems: Iterable[Problem]) -> None:
    """Raise one error that lists all problems; do nothing without any.

    Raises:
        RecipeError: There is a problem. They are sorted by file and line.
    """
    in_order = sorted(problems, key=lambda problem: problem.origin)
    texts = dict.fromkeys(str(problem) for problem in in_order)
    if texts:
        raise RecipeError("\n".join(texts))


def explain_all(invalid: ValidationError, known: Iterable[str] = ()) -> str:
    """Explain all errors of a table, in one line.

    Args:
        invalid: What pydantic raised.
        known: Keys of the table, to suggest one for a misspelt key.
    """
    problems = []
    for error in invalid.errors():
        where = ".".join(map(str, error["loc"])) or "options"
        problems.append(f"{where} - {explain(error, known)}")
    return "; ".join(problems)


def explain(error: ErrorDetails, known: Iterable[str] = ()) -> str:
    """Explain one of pydantic's errors in the terms of TOML.

    Args:
        error: An entry of ``ValidationError.errors()``.
        known: Keys of the table, to suggest one for a misspelt key.
    """
    kind = error["type"]
    context = error.get("ctx", {})
    received = describe_value(error["input"])
    if kind == "extra_forbidden":
        return "unknown key" + did_you_mean(str(error["loc"][-1]), known)
    if kind == "missing":
        return "missing"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind in ("literal_error", "enum"):
        options = context["expected"].replace("'", '"')
        return f"expected {options}, got {received}{_closest_option(error['input'], options)}"
    if kind in _LENGTHS:
        expected = _LENGTHS[kind].format(**context)
        return f"expected {expected} entries, got {context['actual_length']}"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**context)}, got {received}"
    for prefix, expected in _TYPES.items():
        if kind.startswith(prefix):
            return f"expected {expected}, got {received}"
    return f"{lower_first(error['msg'])}, got {received}"


_LENGTHS = {
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}

_BOUNDS = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "finite_number": "finite",
    "string_pattern_mismatch": 'of the form "{pattern}"',
}

_TYPES = {
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


def describe_value(value: Any) -> str:
    """Describe a TOML value by its type and, shortened, its content."""
    match value:
        case bool():
            return f"the boolean {str(value).lower()}"
        case str():
            return f"a string {_shortened(value)}"
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


def _shortened(text: str) -> str:
    if len(text) > 60:
        text = text[:57] + "..."
    return json.dumps(text, ensure_ascii=False)


def _closest_option(value: Any, options: str) -> str:
    """Suggest one of the quoted options for a misspelt one."""
    if not isinstance(value, str):
        return ""
    return did_you_mean(value, re.findall(r'"(.*?)"', options))


def lower_first(message: str) -> str:
    """Begin a message in lower case, to stand after a colon or dash."""
    return message[0].lower() + message[1:]
