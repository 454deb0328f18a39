"""What checks are made of: inputs to probe with, and the way to say that a promise is not kept."""

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


def require(kept: bool, otherwise: str) -> None:
    """Raise PluginError with what happened instead, unless the promise is kept."""
    if not kept:
        raise PluginError(otherwise)


def images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """``n`` different smooth images with some grain, (n, 3, height, width) in [-1, 1]."""
    draws = generator(seed)
    smooth = F.interpolate(
        torch.rand(n, 3, 5, 6, generator=draws), (height, width), mode="bicubic", align_corners=True
    )
    return ((smooth + 0.05 * torch.randn(n, 3, height, width, generator=draws)) * 2 - 1).clamp(
        -1, 1
    )


def generator(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def finite(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Require a tensor of that shape without NaN and infinity."""
    require(isinstance(value, Tensor), f"{name} is a {type(value).__name__}, not a tensor")
    require(
        tuple(value.shape) == tuple(shape),
        f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}",
    )
    require(bool(torch.isfinite(value).all()), f"{name} holds NaN or infinity")


def in_range(name: str, image: Tensor) -> None:
    """Require values in [-1, 1]."""
    low, high = float(image.min()), float(image.max())
    require(low >= -1 and high <= 1, f"{name} lies in [{low:.3g}, {high:.3g}], expected [-1, 1]")


def repeatable(name: str, call: Callable[[], Tensor]) -> None:
    """Require one result from ``call`` whatever state the global random generators are in."""
    with _global_seed(1):
        first = call()
    with _global_seed(2):
        second = call()
    same = first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=1e-5)
    require(
        same,
        f"{name} differs between two calls with the same input and generator: it draws from somewhere else",
    )


def positive_integer(thing: Any, attribute: str) -> None:
    """Require ``thing.attribute`` to be 1, 2, ..."""
    value = getattr(thing, attribute, None)
    require(
        isinstance(value, int) and value >= 1,
        f"{attribute} is {value!r}, expected a positive integer",
    )


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
