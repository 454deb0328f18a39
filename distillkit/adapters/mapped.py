"""Adapters whose scale differs from pixel to pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from distillkit.adapters.base import Adapter

AFFINE = (nn.Conv2d, nn.ConvTranspose2d, nn.PReLU, nn.BatchNorm2d, nn.GroupNorm)
"""Layers over (B, C, h, w) whose output is an affine function of their parameters."""


def takes_map(layers: Sequence[nn.Module]) -> bool:
    """Whether the scale of these layers' adapter can differ from pixel to pixel."""
    return all(isinstance(layer, AFFINE) for layer in layers)


@contextmanager
def blended_layers(
    adapter: Adapter, layers: Sequence[nn.Module], scale_map: Tensor
) -> Iterator[None]:
    """Let each layer blend its outputs at scale 0 and at scale 1 by a map.

    ``y(p) = y_0(p) + s(p) (y_1(p) - y_0(p))``, which is ``W_0 x + s(p) dW x`` for a convolution:
    one pass through the network with every adapted layer computed twice.

    Args:
        adapter: The adapter of these layers.
        layers: All that it adapts.
        scale_map: s, (B, 1, h, w), resized to what each layer gives.
    """
    for layer in layers:
        blend = partial(_blend, layer.forward, adapter, scale_map)
        layer.forward = blend  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            # The class's own method is seen again.
            del layer.__dict__["forward"]


def resize_map(values: Tensor, height: int, width: int) -> Tensor:
    """Resize (B, 1, h, w): by means where it shrinks, linearly where it grows."""
    if values.shape[-2:] == (height, width):
        return values
    if height <= values.shape[-2] and width <= values.shape[-1]:
        return F.interpolate(values, size=(height, width), mode="area")
    return F.interpolate(values, size=(height, width), mode="bilinear", align_corners=False)


def _blend(
    forward: Callable[..., Tensor], adapter: Adapter, scale_map: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    with adapter.at_scale(0.0):
        frozen = forward(*args, **kwargs)
    with adapter.at_scale(1.0):
        trained = forward(*args, **kwargs)
    scales = resize_map(scale_map, *frozen.shape[-2:]).to(frozen)
    return frozen + scales * (trained - frozen)
