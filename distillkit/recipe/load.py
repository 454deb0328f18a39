"""Load a recipe and check its settings, without importing torch or reading a weight.

It checks the skeleton (:class:`Recipe`), the options of each ``use`` table against the plugin that
it names, and what the tables need from each other. All problems are reported at once.
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
from distillkit.recipe import dump, fields, validation
from distillkit.recipe.document import Document, read
from distillkit.recipe.errors import Problem, explain, refuse
from distillkit.recipe.key_paths import KeyPath, dotted, parse_path
from distillkit.recipe.schema import ROLES, Recipe

Model = TypeVar("Model", bound=BaseModel)

ANY = "*"
"""In a key path: every entry of a list or a table."""

PERCEPTUAL_METRIC: KeyPath = ("stage1", "reconstruction", "perceptual_metric")
LINE_METRICS: KeyPath = ("stage2", "line", "perceptual_metrics", ANY)

KINDS: dict[KeyPath, Kind] = {
    ("student",): "students",
    ("teachers", ANY): "teachers",
    ("degradation",): "degradations",
    ("data", "train", ANY): "datasets",
    ("data", "eval", ANY): "datasets",
    PERCEPTUAL_METRIC: "metrics",
    ("stage1", "teachers", ANY, "anchor_metric"): "metrics",
    ("stage1", "teachers", ANY, "output_metric"): "metrics",
    LINE_METRICS: "metrics",
    ("evaluation", "metrics", ANY): "metrics",
}
"""Where a recipe names a component of a plugin, and of which kind."""


def is_training_metric(key: KeyPath) -> bool:
    """Whether a recipe names at ``key`` a metric that the student is trained against."""
    patterns = [pattern for pattern, kind in KINDS.items() if kind == "metrics"]
    return any(_matches(key, pattern) for pattern in patterns if pattern[0] != "evaluation")


@dataclass(frozen=True)
class Component:
    """A component of a plugin that a recipe names, with its options checked."""

    key: KeyPath
    """Where the recipe names it: ``("teachers", "fidelity")``."""
    spec: Spec
    config: Options
    table: Mapping[str, Any]
    """The recipe's table: ``use``, and the options with their defaults in plain form."""

    @property
    def full_name(self) -> str:
        """``"<plugin>/<name>"``."""
        return self.spec.full_name

    @property
    def license(self) -> str:
        """The descriptor's license; where that is unknown, the licenses of its weight files."""
        if self.spec.license != "unknown":
            return self.spec.license
        licenses = dict.fromkeys(file.license for file in self.config.weight_files())
        return " AND ".join(licenses) or "unknown"

    def build(self) -> Any:
        """Build the student, teacher, ...: a new one at each call."""
        return self.spec.create(self.config)


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with everything it extends, overrides and names filled in and checked."""

    source: str
    """The file or the name that it was loaded by."""
    recipe: Recipe
    components: Mapping[str, Component]
    """By dotted key: ``"student"``, ``"teachers.fidelity"``, ``"data.train.0"``, ..."""
    document: Document
    """Every value, defaults included, in plain form."""
    overrides: tuple[str, ...] = ()
    """The ``key.path=VALUE`` texts that it was read with."""

    @property
    def student(self) -> Component:
        return self.components["student"]

    @property
    def teachers(self) -> dict[str, Component]:
        """The teachers by name: the paper's two first, so that sums of losses do not depend on
        the order of a recipe's tables."""
        named = {str(c.key[1]): c for c in self._matching(("teachers", ANY))}
        first = {role: named[role] for role in ROLES if role in named}
        return first | named

    @property
    def degradation(self) -> Component | None:
        return self.components.get("degradation")

    @property
    def perceptual_metric(self) -> Component | None:
        """The metric of eq. 1, if it has a weight in a stage that is trained."""
        weight = self.recipe.stage1.reconstruction.perceptual_weight
        if weight == 0 or not self.recipe.uses_reconstruction:
            return None
        return self.components[dotted(PERCEPTUAL_METRIC)]

    @property
    def anchor_metrics(self) -> dict[str, Component]:
        """The metrics that anchor output teachers, by the teacher's name."""
        return self._teacher_metrics("anchor_metric")

    @property
    def output_metrics(self) -> dict[str, Component]:
        """The metrics that compare with the images of output teachers, by the teacher's name."""
        return self._teacher_metrics("output_metric")

    @property
    def line_metrics(self) -> list[Component]:
        """The perceptual metrics of line distillation, if it has a weight for them."""
        stage2 = self.recipe.stage2
        if stage2.steps == 0 or stage2.target != "line" or not stage2.line.uses_distance:
            return []
        return self._matching(LINE_METRICS)

    @property
    def training_metrics(self) -> list[Component]:
        """All metrics that the student is trained against."""
        metrics = [*self.anchor_metrics.values(), *self.output_metrics.values()]
        metrics += self.line_metrics
        if self.perceptual_metric is not None:
            metrics.append(self.perceptual_metric)
        return metrics

    @property
    def metrics(self) -> list[Component]:
        """The metrics of the evaluation."""
        return self._matching(("evaluation", "metrics", ANY))

    @property
    def plugins(self) -> dict[str, str]:
        """The plugins behind all components, each with its distribution and version."""
        found = {c.spec.plugin: c.spec.distribution for c in self.components.values()}
        return dict(sorted(found.items()))

    def dataset(self, split: str, index: int) -> Component | None:
        """Return the plugin's dataset behind a source of ``data.train`` or ``data.eval``."""
        return self.components.get(f"data.{split}.{index}")

    def origin(self, key: str) -> str:
        """Return what set ``key``: ``"file:line"``, ``"--set"`` or ``"default"``.

        Raises:
            KeyError: The recipe has no such key.
        """
        path = parse_path(key)
        if self.document.get(path) is None:
            raise KeyError(key)
        return str(self.document.origin(path))

    def locate(self, key: KeyPath) -> str:
        """Describe a key for an error: what set it, and its dotted name."""
        return f"{self.document.origin(key)}  {dotted(key)}"

    def to_toml(self) -> str:
        """Write the complete recipe, defaults included; loaded again, it is the same recipe."""
        return dump.to_toml(self.document.values)

    def with_origin(self) -> str:
        """Write one line for each value: its key path, the value, and what set it."""
        return dump.with_origin(self.document)

    def origins(self) -> dict[str, dict[str, Any]]:
        """Return value and origin of each key path, the facts of :meth:`with_origin`."""
        return dump.origins(self.document)

    def _matching(self, pattern: KeyPath) -> list[Component]:
        return [c for c in self.components.values() if _matches(c.key, pattern)]

    def _teacher_metrics(self, option: str) -> dict[str, Component]:
        found = self._matching(("stage1", "teachers", ANY, option))
        return {str(c.key[2]): c for c in found}


def load_recipe(
    source: Path | str, overrides: Iterable[str] = (), plugins: Plugins | None = None
) -> ResolvedRecipe:
    """Read a recipe, and what it extends, and check all of it.

    Args:
        source: A file, whose name ends in ``.toml``, or a plugin's recipe, ``"plugin/name"``.
            Relative paths inside a file are relative to it, and those in a plugin's recipe to the
            working folder.
        overrides: ``"key.path=VALUE"`` texts with TOML values, applied in order; relative paths are
            relative to the working folder.
        plugins: What may be named; default: the installed plugins.

    Raises:
        RecipeError: With every problem found, each as ``file:line  key.path - what``.
    """
    defaults = Recipe.model_construct().model_dump(
        mode="json", exclude_none=True, exclude={"extends"}, warnings=False
    )
    overrides = tuple(overrides)
    plugins = plugins or load_plugins()
    document = read(str(source), plugins, overrides, defaults)
    _make_paths_absolute(document, Recipe, ())
    problems = list(document.problems)
    components = {c.key: c for c in _resolve(document, plugins, problems)}
    recipe, invalid = _validate(Recipe, document.values, document, ())
    problems += invalid
    problems += validation.check(document, components)
    refuse(problems)
    assert recipe is not None
    complete = _complete(document, recipe, components)
    by_name = {
        dotted(key): replace(component, table=complete.get(key))
        for key, component in components.items()
    }
    recipe = Recipe.model_validate(complete.values)
    return ResolvedRecipe(str(source), recipe, by_name, complete, overrides)


def _resolve(document: Document, plugins: Plugins, problems: list[Problem]) -> Iterator[Component]:
    """Yield the valid components; add to ``problems`` what is wrong with the others."""
    for path, kind in _component_places(document):
        table = document.get(path)
        if isinstance(table, str):
            # a name alone stands for a table without options
            table = {"use": table}
            document.set(path, table, document.origin(path))
        if not isinstance(table, dict):
            continue
        if "use" not in table:
            problems += _remove_unknown_keys(document, path, table)
            continue
        if not isinstance(table["use"], str):
            continue
        try:
            spec = plugins.find(kind, table["use"])
        except PluginError as e:
            key = (*path, "use")
            problems.append(Problem(document.origin(key), key, str(e)))
            continue
        table["use"] = spec.full_name
        _make_paths_absolute(document, spec.config, path)
        _add_default_paths(document, spec.config, path)
        options = _component_options(spec, table, path)
        config, invalid = _validate(spec.config, options, document, path)
        problems += invalid
        if config is not None:
            yield Component(path, spec, config, table)


def _remove_unknown_keys(
    document: Document, path: KeyPath, table: dict[str, Any]
) -> Iterator[Problem]:
    """Take misspelled keys out of a table that names no component, and report them."""
    known = fields.keys(Recipe, path)
    unknown = [key for key in table if key not in known]
    for name in unknown:
        key = (*path, name)
        what = "unknown key" + did_you_mean(name, known)
        yield Problem(document.origin(key), key, what)
        del table[name]


def _component_options(spec: Spec, table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """Pick the component's own options from a table; the rest belong to the recipe's skeleton."""
    own = fields.keys(spec.config)
    skeleton = fields.keys(Recipe, path)
    return {k: v for k, v in table.items() if k in own or k not in skeleton}


def _component_places(document: Document) -> Iterator[tuple[KeyPath, Kind]]:
    """Yield the key path and kind of everything in a document that may name a component."""
    for pattern, kind in KINDS.items():
        for path in _expand(document, pattern, ()):
            yield path, kind


def _expand(document: Document, pattern: KeyPath, done: KeyPath) -> Iterator[KeyPath]:
    """Yield the paths below ``done`` that are in the document and match ``pattern``."""
    if not pattern:
        if document.get(done) is not None:
            yield done
        return
    first, *rest = pattern
    for key in _entries(document.get(done)) if first == ANY else (first,):
        yield from _expand(document, tuple(rest), (*done, key))


def _entries(value: Any) -> Iterable[str | int]:
    if isinstance(value, list):
        return range(len(value))
    if isinstance(value, dict):
        return list(value)
    return ()


def _matches(path: KeyPath, pattern: KeyPath) -> bool:
    if len(path) != len(pattern):
        return False
    return all(wanted in (ANY, key) for key, wanted in zip(path, pattern, strict=True))


def _validate(
    model: type[Model], values: Any, document: Document, at: KeyPath
) -> tuple[Model | None, list[Problem]]:
    """Validate the values that stand at ``at`` in the document, or say why they are invalid."""
    try:
        return model.model_validate(values), []
    except ValidationError as e:
        return None, _problems(e, model, values, document, at)
    except Exception as e:  # a plugin's validator that fails in a way of its own
        what = f"{model.__module__}.{model.__name__} failed to check it: {type(e).__name__}: {e}"
        return None, [Problem(document.origin(at), at, what)]


def _problems(
    invalid: ValidationError, model: type[BaseModel], values: Any, document: Document, at: KeyPath
) -> list[Problem]:
    problems: dict[KeyPath, Problem] = {}
    for error in invalid.errors():
        below = _key_path(error, values)
        what = explain(error, fields.keys(model, below[:-1]))
        path = (*at, *below)
        if path in problems:
            # a union: pydantic has an error for each of its members
            what = f"{problems[path].message}; or: {what}"
        problems[path] = Problem(document.origin(path), path, what)
    return list(problems.values())


def _key_path(error: ErrorDetails, values: Any) -> KeyPath:
    """Return pydantic's location without the parts that name members of a union."""
    path: KeyPath = ()
    for part in error["loc"]:
        if part in _entries(values):
            path = (*path, part)
            values = values[part]
    if error["type"] == "missing":
        path = (*path, error["loc"][-1])
    return path


def _make_paths_absolute(document: Document, model: type[BaseModel], at: KeyPath) -> None:
    for below in fields.file_path_keys(model, document.get(at)):
        path = (*at, *below)
        folder = document.origin(path).folder
        parent = document.get(path[:-1])
        written = Path(parent[path[-1]]).expanduser()
        parent[path[-1]] = os.path.normpath(folder.absolute() / written)


def _add_default_paths(document: Document, model: type[BaseModel], at: KeyPath) -> None:
    """Add default paths to a table, relative to the folder of the file that names the component.

    Absolute ones, such as files inside a plugin's package, stay out of the recipe.
    """
    table = document.get(at)
    folder = document.folder((*at, "use"))
    for key, default in fields.relative_defaults(model).items():
        table.setdefault(key, os.path.normpath(folder / default))


def _complete(
    document: Document, recipe: Recipe, components: Mapping[KeyPath, Component]
) -> Document:
    """Add the defaults of the skeleton and of every component's options to the document.

    A default that is a path stays out: it points into the plugin's own files, wherever that is
    installed.
    """
    values = recipe.model_dump(mode="json", exclude_none=True, exclude={"extends"})
    defaults = Document(document.name, values)
    for component in components.values():
        options = component.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        paths = {key for key, *_ in fields.file_path_keys(component.spec.config, options)}
        table = defaults.get(component.key)
        table.update({key: value for key, value in options.items() if key not in paths})
    return Document(document.name, _filled(document.values, defaults.values), document.origins)


def _filled(value: Any, default: Any) -> Any:
    """Add what only ``default`` has, down through tables and lists."""
    if isinstance(value, dict) and isinstance(default, dict):
        # keys in the order of the defaults, then those that have none
        filled = {key: _filled(value.get(key, entry), entry) for key, entry in default.items()}
        return filled | {key: entry for key, entry in value.items() if key not in default}
    if isinstance(value, list) and isinstance(default, list) and len(value) == len(default):
        return [_filled(*pair) for pair in zip(value, default, strict=True)]
    return value
