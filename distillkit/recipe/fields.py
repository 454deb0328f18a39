"""Walking the type annotations of pydantic models along a key path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from distillkit.files.weights import WeightFile
from distillkit.recipe.key_paths import KeyPath, children


def keys(annotation: Any, path: KeyPath = ()) -> list[str]:
    """List the keys that the table at ``path`` below ``annotation`` may have."""
    for key in path:
        annotation = entry_type(annotation, key)
    names: list[str] = []
    for kind in alternatives(annotation):
        if not _is_model(kind):
            continue
        for name, field in kind.model_fields.items():
            names.append(field.alias or name)
    return names


def file_path_keys(annotation: Any, value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the keys, below ``path``, of the strings that ``annotation`` makes file paths of.

    Args:
        annotation: The type of ``value``.
        value: Plain data, as a recipe file holds it.
        path: Where ``value`` stands; the key paths found start with it.
    """
    if isinstance(value, str):
        if _is_file_path(annotation):
            yield path
        return
    for key, entry in children(value):
        below = entry_type(annotation, key)
        yield from file_path_keys(below, entry, (*path, key))


def relative_defaults(model: type[BaseModel]) -> dict[str, Path]:
    """Find the options of a model whose default is a relative path.

    Returns:
        The defaults, by the option's key.
    """
    found: dict[str, Path] = {}
    for name, option in model.model_fields.items():
        default = option.default
        if isinstance(default, Path) and not default.is_absolute():
            found[option.alias or name] = default
    return found


def packaged_defaults(model: type[BaseModel]) -> dict[str, Path]:
    """Find the options of a model whose default is a file in the plugin's package.

    Returns:
        The files, by the option's key.
    """
    found: dict[str, Path] = {}
    for name, option in model.model_fields.items():
        default = option.default
        path = default.path if isinstance(default, WeightFile) else default
        if isinstance(path, Path) and path.is_absolute():
            found[option.alias or name] = path
    return found


def entry_type(annotation: Any, key: str | int) -> Any:
    """Return the annotation of an entry of a table or list.

    Args:
        annotation: The type of the table or list.
        key: The entry's key or index.

    Returns:
        A union where ``annotation`` is one; None if no member has such an entry.
    """
    types: list[Any] = []
    for kind in alternatives(annotation):
        types += _entry_types(kind, key)
    if not types:
        return None
    return Union[tuple(types)]  # noqa: UP007 - made at run time


def alternatives(annotation: Any) -> Iterator[Any]:
    """Take ``Annotated``, ``Optional`` and unions apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    else:
        yield annotation


def _entry_types(kind: Any, key: str | int) -> list[Any]:
    """Return the annotations of an entry in one type that is no union."""
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if key in (name, field.alias):
                return [field.annotation]
        return []
    arguments = get_args(kind)
    origin = get_origin(kind)
    if _is_subclass(origin, Mapping):
        return [arguments[1]]
    if not arguments or not isinstance(key, int):
        return []
    # tuple[int, str] has a type for each index; list[int] and tuple[int, ...] have one for all.
    if key < len(arguments) and arguments[-1] is not Ellipsis:
        return [arguments[key]]
    return [arguments[0]]


def _is_model(annotation: Any) -> bool:
    return _is_subclass(annotation, BaseModel)


def _is_subclass(kind: Any, parents: Any) -> bool:
    """Whether an annotation is a class, and a subclass of one of ``parents``."""
    return isinstance(kind, type) and issubclass(kind, parents)


def _is_file_path(annotation: Any) -> bool:
    """Whether a string becomes a file path.

    Where ``str`` is allowed as well, it stays a text.
    """
    kinds = list(alternatives(annotation))
    if str in kinds:
        return False
    return any(_is_subclass(kind, Path | WeightFile) for kind in kinds)
