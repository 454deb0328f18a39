"""What checks consist of: inputs to probe with, and requirements on results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.errors import PluginError


def smooth_images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draw different smooth images with some grain, (n, 3, height, width) in [-1, 1]."""
    draws = seeded(seed)
    # Smooth, because networks and JPEG behave differently on noise than on photographs.
    coarse = torch.rand(n, 3, 5, 6, generator=draws)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    grain = 0.05 * torch.randn(n, 3, height, width, generator=draws)
    return ((smooth + grain) * 2 - 1).clamp(-1, 1)


def seeded(seed: int = 0) -> torch.Generator:
    """Create a CPU generator."""
    return torch.Generator().manual_seed(seed)


def require(kept: bool | Tensor, otherwise: str) -> None:
    """Raise PluginError, saying what happened instead, unless a requirement is kept."""
    if not kept:
        raise PluginError(otherwise)


def require_finite(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Require a tensor of that shape without NaN and infinity."""
    require(isinstance(value, Tensor), f"{name} is a {type(value).__name__}, not a tensor")
    found, expected = tuple(value.shape), tuple(shape)
    require(found == expected, f"{name} has shape {found}, expected {expected}")
    require(torch.isfinite(value).all(), f"{name} holds NaN or infinity")


def require_image_range(name: str, image: Tensor) -> None:
    """Require values in [-1, 1]."""
    low, high = float(image.min()), float(image.max())
    message = f"{name} lies in [{low:.3g}, {high:.3g}], expected [-1, 1]"
    require(low >= -1 and high <= 1, message)


def require_repeatable(name: str, call: Callable[[], Tensor]) -> None:
    """Require one result from ``call`` whatever state the global random generators are in."""
    with _global_seed(1):
        first = call()
    with _global_seed(2):
        second = call()
    same = first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=1e-5)
    message = (
        f"{name} differs between two calls with the same input and generator: "
        "it draws from somewhere else"
    )
    require(same, message)


def require_positive_integer(built: Any, attribute: str) -> None:
    """Require an attribute to be 1, 2, ..."""
    value = getattr(built, attribute, None)
    message = f"{attribute} is {value!r}, expected a positive integer"
    require(isinstance(value, int) and value >= 1, message)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global random generators inside the context."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
