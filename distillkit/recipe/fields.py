"""Walking the type annotations of pydantic models along a key path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from distillkit.recipe.positions import KeyPath


def alternatives(annotation: Any) -> Iterator[Any]:
    """What an annotation may stand for, with ``Annotated``, ``Optional`` and unions taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    else:
        yield annotation


def entry(annotation: Any, key: str | int) -> Any:
    """The annotation of entry ``key`` of something annotated so; None if it has no such entry."""
    found: list[Any] = []
    for kind in alternatives(annotation):
        arguments = get_args(kind)
        if is_model(kind):
            found += [
                field.annotation
                for name, field in kind.model_fields.items()
                if key in (name, field.alias)
            ]
        elif isinstance(kind_of := get_origin(kind), type) and issubclass(kind_of, Mapping):
            found.append(arguments[1])
        elif arguments and isinstance(key, int):
            found.append(
                arguments[key]
                if len(arguments) > key and arguments[-1] is not Ellipsis
                else arguments[0]
            )
    return Union[tuple(found)] if found else None  # noqa: UP007 - made at run time


def keys(annotation: Any, path: KeyPath = ()) -> list[str]:
    """The keys that the table at ``path`` below ``annotation`` knows."""
    for key in path:
        annotation = entry(annotation, key)
    models = [kind for kind in alternatives(annotation) if is_model(kind)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def paths_within(annotation: Any, value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Where in ``value`` there are strings that ``annotation`` takes for file paths."""
    kinds = list(alternatives(annotation))
    if isinstance(value, str):
        if (
            any(isinstance(kind, type) and issubclass(kind, Path) for kind in kinds)
            and str not in kinds
        ):
            yield at
    elif isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_within(entry(annotation, key), below, (*at, key))
