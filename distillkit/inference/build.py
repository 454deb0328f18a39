"""The objects that a recipe's tables name, made by their plugins."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distillkit.errors import DistillkitError, PluginError
from distillkit.recipe.load import ResolvedRecipe


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
