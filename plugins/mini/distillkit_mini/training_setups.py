"""How the two models of each task are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from distillkit import Degradation, load_plugins
from distillkit_mini.degradation import Camera
from distillkit_mini.models import LOW_LIGHT, SUPER_RESOLUTION, Task

Weights = dict[str, float]

WEIGHTS: Weights = {
    "l2": 1.0,
    "cells": 30.0,
    "perceptual": 2.0,
    "adversarial": 0.4,
    "denoising": 0.5,
}

DARK: dict[str, tuple[float, float]] = {
    "gamma": (2.0, 2.3),
    "exposure": (0.25, 0.32),
    "cast": (0.9, 1.1),
    "shot": (0.001, 0.004),
    "read": (0.003, 0.01),
    "jpeg": (90, 98),
}
"""Options of ``lowlight/dark``: a nearly known exposure, as a camera knows it, and much noise.

The defaults of ``lowlight/dark`` leave more of the brightness to guess than such small models can,
and less noise, which is where faithful and realistic models part.
"""


@dataclass(frozen=True)
class TrainingSetup:
    """How the two models of a task are trained."""

    task: Task
    names: tuple[str, str]
    """Names of the weight files: faithful, realistic."""
    degradation: Callable[[], Degradation]
    crop: int
    """Side of the training crops, pixels."""
    large: int
    """Photographs of at least this shorter side, in pixels, are also used at half their size."""
    faithful_steps: tuple[int, int]
    """Steps at the top timestep only, and at all timesteps."""
    realistic_steps: int
    top_is_guess: bool
    """Whether the faithful network gets ``y`` in place of ``z_t`` at the top timestep."""
    faithful_learning_rate: float
    """The faithful model's learning rate."""
    detail: float
    """Weight, in the faithful model's loss, of the error beside its mean over a crop."""
    weights: Weights
    """Weights of the terms of the realistic model's loss."""


def create_from_plugin(
    kind: Literal["degradations", "metrics"], use: str, options: dict[str, Any] | None = None
) -> Any:
    """Create something of an installed plugin, as a recipe would.

    Args:
        kind: The kind of thing.
        use: Its name, as in a recipe.
        options: Its options.

    Raises:
        PluginError: No installed plugin offers it.
    """
    spec = load_plugins().find(kind, use)
    return spec.create(spec.config(**(options or {})))


TRAINING_SETUPS = {
    "sr4x": TrainingSetup(
        task=SUPER_RESOLUTION,
        names=("faithful", "realistic"),
        degradation=Camera,
        crop=64,
        large=480,
        faithful_steps=(3_600, 5_400),
        realistic_steps=2_400,
        top_is_guess=False,
        faithful_learning_rate=1e-3,
        detail=0.0,
        weights=WEIGHTS,
    ),
    "lle": TrainingSetup(
        task=LOW_LIGHT,
        names=("faithful-lle", "realistic-lle"),
        degradation=partial(create_from_plugin, "degradations", "lowlight/dark", DARK),
        crop=64,
        large=192,
        faithful_steps=(4_000, 6_000),
        realistic_steps=2_400,
        top_is_guess=True,
        # At twice this rate the network dies: unknowable brightness makes the gradient noisy.
        faithful_learning_rate=5e-4,
        detail=10.0,
        weights=WEIGHTS | {"cells": 3.0, "perceptual": 8.0, "adversarial": 0.2},
    ),
}
