"""The objects that a recipe's tables name, made by their plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from distillkit.data.degradation import Degradation
from distillkit.data.evaluation_pairs import EvaluationPair, evaluation_pairs
from distillkit.data.sources import Columns, Source, open_source
from distillkit.errors import DistillkitError, PluginError, RecipeError, WeightsError
from distillkit.objectives.reconstruction import Distance
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import Plugins, load_plugins
from distillkit.recipe.errors import explain
from distillkit.recipe.load import Component, ResolvedRecipe


def build(resolved: ResolvedRecipe, key: str, device: torch.device | str) -> Any:
    """What the table at ``key`` (``"teachers.fidelity"``) names; a module comes frozen, in evaluation mode and on ``device``.

    Raises:
        PluginError: the plugin's ``build`` failed in a way of its own. DistillkitError: whatever else it says.
    """
    return _build(resolved.components[key], key, device)


def build_distance(resolved: ResolvedRecipe, key: str, device: torch.device | str) -> Distance:
    """The metric at ``key``, to be trained against.

    Raises:
        RecipeError: no gradient flows through it, or more of it is better. Else as :func:`build`.
    """
    metric = build(resolved, key, device)
    if not metric.differentiable or metric.higher_is_better:
        what = (
            "is higher where images are closer"
            if metric.higher_is_better
            else "is not differentiable"
        )
        raise RecipeError(
            f"{resolved.origin(key)}  {key} - {metric.name} {what}: nothing can be trained against it"
        )
    return metric


def build_named(name: str, settings: Mapping[str, Any], device: torch.device | str) -> Any:
    """A registered teacher, or else student, with its own options: frozen, in evaluation mode and on ``device``.

    Raises:
        PluginError: no such model, settings it does not take, or its ``build`` failed. WeightsError: its weights are not here.
    """
    return _build_with(*_find_model(load_plugins(), name), settings, device)


def build_metric(name: str, settings: Mapping[str, Any], device: torch.device | str) -> Any:
    """A registered metric with its own options. Raises as :func:`build_named`."""
    return _build_with(*load_plugins().find("metrics", name), settings, device)


def _build_with(
    full_name: str, spec: Spec, settings: Mapping[str, Any], device: torch.device | str
) -> Any:
    try:
        config = spec.config(**settings)
    except ValidationError as e:
        known = list(spec.config.model_fields)
        problems = [
            f"{'.'.join(map(str, p['loc'])) or 'options'} - {explain(p, known)}" for p in e.errors()
        ]
        raise PluginError(
            f"{full_name} does not take these settings: {'; '.join(problems)}"
        ) from None
    if missing := [
        f"{f.name} (license {f.license})" for f in config.weight_files() if f.find() is None
    ]:
        raise WeightsError(
            f"{full_name} needs weights that are not on this machine: {', '.join(missing)}"
        )
    return _build(Component(full_name, spec, config, {}), full_name, device)


def pick_device(name: torch.device | str | None) -> torch.device:
    """The device of that name; without one, a GPU where there is one.

    Raises:
        DistillkitError: no such device on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise DistillkitError(f"device {name} cannot be used: {str(e).splitlines()[0]}") from e
    return device


def _find_model(plugins: Plugins, name: str) -> tuple[str, Spec]:
    try:
        return plugins.find("teachers", name)
    except PluginError:
        if any(name in (full, full.partition("/")[2]) for full in plugins.specs("students")):
            return plugins.find("students", name)
        raise


def _build(component: Component, key: str, device: torch.device | str) -> Any:
    try:
        thing = component.build()
    except DistillkitError:
        raise
    except Exception as e:
        raise PluginError(
            f"{key} - {component.full_name} could not be built: {type(e).__name__}: {e}"
        ) from e
    if isinstance(thing, nn.Module):
        thing.requires_grad_(False).eval().to(device)
    return thing


def open_sources(resolved: ResolvedRecipe, part: Literal["train", "eval"]) -> list[Source]:
    """The sources of ``data.train`` or ``data.eval``, in the recipe's order.

    Raises:
        DataError: one cannot be reached or read, is empty, or lacks a column.
    """
    opened = []
    for i, table in enumerate(getattr(resolved.recipe.data, part)):
        dataset = build(resolved, f"data.{part}.{i}", "cpu") if table.use is not None else None
        opened.append(
            open_source(
                hub=table.hub,
                revision=table.revision,
                split=table.split,
                imagefolder=table.imagefolder,
                parquet=table.parquet,
                dataset=dataset,
                name=table.use,
                columns=Columns(table.column, table.lq_column, table.caption_column),
            )
        )
    return opened


def held_out(
    resolved: ResolvedRecipe, degradation: Degradation | None, scale: int
) -> list[EvaluationPair]:
    """The recipe's evaluation pairs: the same ones at every call, in every process."""
    options, sources = resolved.recipe.evaluation, open_sources(resolved, "eval")
    items = []
    for source in sources:
        found = evaluation_pairs(
            source,
            degradation,
            crop=options.crop,
            crops_per_image=options.crops_per_image,
            scale=scale,
            seed=resolved.recipe.seed,
        )
        prefix = f"{source.name}:" if len(sources) > 1 else ""
        items += [item._replace(name=prefix + item.name) for item in found]
    return items
