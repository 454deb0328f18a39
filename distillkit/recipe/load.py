"""From a recipe file to a run's checked settings, without importing torch or reading a weight.

Phase 1 checks the skeleton (:class:`Recipe`); phase 2 checks each ``use`` table against the plugin it names, and what the parts
need of each other. Everything that either finds is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distillkit.errors import PluginError, did_you_mean
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import Kind, Plugins, load_plugins
from distillkit.plugins.options import Options
from distillkit.recipe import dump, fields
from distillkit.recipe import validation as checks
from distillkit.recipe.document import Document, read
from distillkit.recipe.errors import Problem, explain, refuse
from distillkit.recipe.positions import KeyPath, dotted, parse_path
from distillkit.recipe.schema import Recipe

Model = TypeVar("Model", bound=BaseModel)

KINDS: dict[KeyPath, Kind] = {
    ("student",): "students",
    ("teachers", "fidelity"): "teachers",
    ("teachers", "realness"): "teachers",
    ("degradation",): "degradations",
    ("data", "train", "*"): "datasets",
    ("data", "eval", "*"): "datasets",
    ("stage1", "perceptual"): "metrics",
    ("stage1", "fidelity_anchor"): "metrics",
    ("stage1", "realness_anchor"): "metrics",
    ("evaluation", "metrics", "*"): "metrics",
}
"""Where a recipe names something of a plugin, and of what kind; ``*`` is every entry of a list."""


@dataclass(frozen=True)
class Component:
    """Something of a plugin that a recipe names, its options checked."""

    full_name: str
    spec: Spec
    config: Options
    table: Mapping[str, Any]
    """The recipe's table: ``use``, and the options with their defaults in plain form."""

    @property
    def license(self) -> str:
        """Of the descriptor; where that is unknown, of its weight files: what a recipe states of them, for instance."""
        if self.spec.license != "unknown":
            return self.spec.license
        return (
            " AND ".join(dict.fromkeys(file.license for file in self.config.weight_files()))
            or "unknown"
        )

    def build(self) -> Any:
        """The student, teacher, ... itself: a new one at each call."""
        return self.spec.create(self.config)


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with everything it extends, overrides and names filled in and checked."""

    path: Path
    recipe: Recipe
    components: Mapping[str, Component]
    """By key path: ``"student"``, ``"teachers.fidelity"``, ``"data.train.0"``, ``"evaluation.metrics.0"``, ..."""
    document: Document
    """Every value, defaults included, in plain form."""
    overrides: tuple[str, ...] = ()
    """The ``key.path=VALUE`` texts that it was read with."""

    def origin(self, key: str) -> str:
        """What set ``key`` (``"stage1.steps"``): ``"file:line"``, ``"--set"`` or ``"default"``.

        Raises:
            KeyError: the recipe has no such key.
        """
        path = parse_path(key)
        if self.document.get(path) is None:
            raise KeyError(key)
        return str(self.document.origin(path))

    def to_toml(self) -> str:
        """The complete recipe, defaults included; loaded again, it is the same recipe."""
        return dump.to_toml(self.document.values)

    def with_origin(self) -> str:
        """One line for each value: its key path, the value, and what set it."""
        return dump.with_origin(self.document)


def load_recipe(
    path: Path | str, overrides: Iterable[str] = (), plugins: Plugins | None = None
) -> ResolvedRecipe:
    """Read a recipe, and what it extends, and check all of it.

    Args:
        path: a TOML file. Relative paths inside a recipe are relative to the file that they stand in.
        overrides: ``"key.path=VALUE"`` texts with TOML values, applied in order; relative paths are relative to the working folder.
        plugins: what may be named; default: the installed plugins.

    Raises:
        RecipeError: with every problem found, each as ``file:line  key.path - what``.
    """
    defaults = Recipe.model_construct().model_dump(
        mode="json", exclude_none=True, exclude={"extends"}, warnings=False
    )
    overrides = tuple(overrides)
    document = read(path, overrides, defaults)
    _make_paths_absolute(document, Recipe, ())
    problems = list(document.problems)
    components = dict(_resolve(document, plugins or load_plugins(), problems))
    recipe, found = _validate(Recipe, document.values, document, ())
    problems += [
        *found,
        *checks.check(document, {key: (c.full_name, c.spec) for key, c in components.items()}),
    ]
    refuse(problems)
    assert recipe is not None
    complete = _complete(document, recipe, components)
    components = {
        key: replace(c, table=complete.get(parse_path(key))) for key, c in components.items()
    }
    return ResolvedRecipe(
        Path(path), Recipe.model_validate(complete.values), components, complete, overrides
    )


def _resolve(
    document: Document, plugins: Plugins, problems: list[Problem]
) -> Iterator[tuple[str, Component]]:
    """The components of the ``use`` tables that are in order; ``problems`` gets what is wrong with the others."""
    for path, kind in _sites(document):
        table = document.get(path)
        if isinstance(table, str):  # a name alone
            table = {"use": table}
            document.set(path, table, document.origin(path))
        if not isinstance(table, dict):
            continue
        skeleton = fields.keys(Recipe, path)
        if "use" not in table:
            for key in [key for key in table if key not in skeleton]:
                problems.append(
                    Problem(
                        document.origin((*path, key)),
                        (*path, key),
                        "unknown key" + did_you_mean(key, skeleton),
                    )
                )
                del table[key]
            continue
        if not isinstance(table["use"], str):
            continue
        try:
            full_name, spec = plugins.find(kind, table["use"])
        except PluginError as e:
            problems.append(Problem(document.origin((*path, "use")), (*path, "use"), str(e)))
            continue
        table["use"] = full_name
        _make_paths_absolute(document, spec.config, path)
        _add_default_paths(document, spec.config, path)
        own = fields.keys(spec.config)
        config, found = _validate(
            spec.config,
            {k: v for k, v in table.items() if k in own or k not in skeleton},
            document,
            path,
        )
        problems += found
        if config is not None:
            yield dotted(path), Component(full_name, spec, config, table)


def _sites(document: Document) -> Iterator[tuple[KeyPath, Kind]]:
    for path, kind in KINDS.items():
        if path[-1] != "*":
            if document.get(path) is not None:
                yield path, kind
        elif isinstance(entries := document.get(path[:-1]), list):
            yield from (((*path[:-1], i), kind) for i in range(len(entries)))


def _validate(
    model: type[Model], values: Any, document: Document, at: KeyPath
) -> tuple[Model | None, list[Problem]]:
    """``values``, which stand at ``at`` in the document, as a ``model``; or the reasons why not."""
    try:
        return model.model_validate(values), []
    except ValidationError as e:
        problems: dict[KeyPath, Problem] = {}
        for error in e.errors():
            path = (*at, *_key_path(error, values))
            what = explain(error, fields.keys(model, path[len(at) : -1]))
            if path in problems:  # the members of a union, each refusing in its own words
                what = f"{problems[path].message}; or: {what}"
            problems[path] = Problem(document.origin(path), path, what)
        return None, list(problems.values())
    except Exception as e:  # a plugin's validator that fails in a way of its own
        what = f"{model.__module__}.{model.__name__} failed to check it: {type(e).__name__}: {e}"
        return None, [Problem(document.origin(at), at, what)]


def _key_path(error: ErrorDetails, value: Any) -> KeyPath:
    """pydantic's location without the parts that name members of a union."""
    path: KeyPath = ()
    for part in error["loc"]:
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            path, value = (*path, part), value[part]  # type: ignore[index]
    return (*path, error["loc"][-1]) if error["type"] == "missing" else path


def _make_paths_absolute(document: Document, model: type[BaseModel], at: KeyPath) -> None:
    for below in fields.paths_within(model, document.get(at)):
        path = (*at, *below)
        folder = document.folder(path)
        parent = document.get(path[:-1])
        parent[path[-1]] = os.path.normpath(folder / Path(parent[path[-1]]).expanduser())


def _add_default_paths(document: Document, model: type[BaseModel], at: KeyPath) -> None:
    """Let relative default paths start from the folder of the file that names the component.

    Absolute ones, such as files inside a plugin's package, stay out of the recipe.
    """
    table = document.get(at)
    folder = document.folder((*at, "use"))
    for key, default in fields.relative_defaults(model).items():
        table.setdefault(key, os.path.normpath(folder / default))


def _complete(document: Document, recipe: Recipe, components: Mapping[str, Component]) -> Document:
    """The document with the defaults of the skeleton and of every component's options added.

    An absolute path stays out: it points into the plugin's own files, wherever that is installed.
    """
    defaults = Document(
        document.name, recipe.model_dump(mode="json", exclude_none=True, exclude={"extends"})
    )
    for path, _ in _sites(document):
        component = components.get(dotted(path))
        if component is not None:
            options = component.config.model_dump(mode="json", by_alias=True, exclude_none=True)
            with_paths = {key for key, *_ in fields.paths_within(component.spec.config, options)}
            defaults.get(path).update(
                {key: value for key, value in options.items() if key not in with_paths}
            )
    return Document(document.name, _filled(document.values, defaults.values), document.origins)


def _filled(value: Any, default: Any) -> Any:
    """``value`` with what only ``default`` has, down through tables and lists."""
    if isinstance(value, dict) and isinstance(default, dict):
        known = {
            key: _filled(value[key], entry) if key in value else entry
            for key, entry in default.items()
        }
        return known | {key: entry for key, entry in value.items() if key not in default}
    if isinstance(value, list) and isinstance(default, list) and len(value) == len(default):
        return [_filled(*pair) for pair in zip(value, default, strict=True)]
    return value
