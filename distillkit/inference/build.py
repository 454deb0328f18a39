"""The objects that a recipe's tables name, made by their plugins."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from distillkit.data.degradation import Degradation
from distillkit.data.pairs import evaluation_items
from distillkit.data.sources import Source, open_source
from distillkit.errors import DistillkitError, PluginError
from distillkit.recipe.load import ResolvedRecipe

Item = tuple[str, Tensor, Tensor]
"""An evaluation pair: name, lq (1, 3, h, w) and gt (1, 3, H, W), both in [-1, 1]."""


def build(resolved: ResolvedRecipe, key: str, device: torch.device | str) -> Any:
    """What the table at ``key`` (``"teachers.fidelity"``) names; a module comes frozen, in evaluation mode and on ``device``.

    Raises:
        PluginError: the plugin's ``build`` failed in a way of its own. DistillkitError: whatever else it says.
    """
    component = resolved.components[key]
    try:
        thing = component.build()
    except DistillkitError:
        raise
    except Exception as e:
        raise PluginError(f"{key} - {component.full_name} could not be built: {type(e).__name__}: {e}") from e
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
                column=table.column,
                lq_column=table.lq_column,
            )
        )
    return opened


def held_out(resolved: ResolvedRecipe, degradation: Degradation | None, scale: int) -> list[Item]:
    """The recipe's evaluation pairs: the same ones at every call, in every process."""
    options, sources = resolved.recipe.evaluation, open_sources(resolved, "eval")
    items = []
    for source in sources:
        found = evaluation_items(
            source, degradation, crop=options.crop, crops_per_image=options.crops_per_image, scale=scale, seed=resolved.recipe.seed
        )
        prefix = f"{source.name}:" if len(sources) > 1 else ""
        items += [(prefix + name, lq, gt) for name, lq, gt in found]
    return items
