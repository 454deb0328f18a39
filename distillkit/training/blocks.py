"""What networks repeat: their blocks, made again in the backward pass instead of being kept, or compiled; and their layers, whose
copies of weights in another precision are made again.

A block is what an ``nn.ModuleList`` or ``nn.Sequential`` holds at the innermost level of such lists: a residual block, a
transformer block. Layers, with or without an adapter, and lists of layers are parts of blocks. A network without lists is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from distillkit.adapters.adapters import Adapter


@contextmanager
def gradient_checkpointing(models: Iterable[nn.Module], adapter: Adapter | None) -> Iterator[None]:
    """Gradient checkpointing: blocks keep their inputs only while this context lasts; gradients are what they would be without.

    Args:
        adapter: the one that may be on them: a block is made again under the scale that it was first made with, whatever the scale
            is at the time of the backward pass.
    """
    with _replaced(blocks_of(models), lambda block: partial(_checkpointed, block.forward, adapter)):
        yield


@contextmanager
def recast_weights(models: Iterable[nn.Module]) -> Iterator[None]:
    """In mixed precision, frozen weights are cast again for the backward pass: no pass keeps a copy of them for it.

    Autocast casts the weights of a layer at each pass, and the gradient needs the copy. Gradients are what they would be without.
    """
    layers = [
        m
        for model in models
        for m in model.modules()
        if type(m) in (nn.Linear, nn.Conv2d) and not m.weight.requires_grad
    ]
    with _replaced(dict.fromkeys(layers), lambda layer: partial(_recast, layer, layer.forward)):
        yield


@contextmanager
def compile_blocks(models: Iterable[nn.Module], backend: str = "inductor") -> Iterator[None]:
    """Regional compilation: each block is compiled by itself, and those of one class and shape share what is compiled.

    Shapes are fixed, a graph for each: crops come in few, and code for any shape is slower, where it can be made at all. Scales of
    adapters are not. Enter it before :func:`gradient_checkpointing` where both are wanted.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(
        limit, 64
    )  # one for each shape that the blocks of a class come in
    try:
        with _replaced(
            blocks_of(models),
            lambda block: partial(_of_fixed_shape, torch.compile(block.forward, backend=backend)),
        ):
            yield
    finally:
        torch._dynamo.config.recompile_limit = limit


Forward = Callable[..., Any]


@contextmanager
def _replaced(modules: Iterable[nn.Module], wrap: Callable[[nn.Module], Forward]) -> Iterator[None]:
    """Each module's ``forward`` is what ``wrap`` makes of it, until the end of the context."""
    replaced = list(modules)
    former = [vars(module).get("forward") for module in replaced]
    for module in replaced:
        module.forward = wrap(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, forward in zip(replaced, former, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward  # type: ignore[method-assign]


def blocks_of(models: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """All blocks of all ``models``."""
    for model in models:
        for child in model.children():
            yield from _innermost(child)


def _innermost(module: nn.Module) -> Iterator[nn.Module]:
    if any(_repeats(m) for m in module.modules()):
        for child in module.children():
            yield from _innermost(child)
    elif _has_parts(module):
        yield module


def _repeats(module: nn.Module) -> bool:
    """Whether ``module`` is a list of blocks."""
    return isinstance(module, nn.ModuleList | nn.Sequential) and any(
        _has_parts(part) for part in module
    )


def _has_parts(module: nn.Module) -> bool:
    """Whether ``module`` is more than a layer, or a wrapping of one; what an adapter adds to a layer is no part."""
    parts = [child for name, child in module.named_children() if name != "parametrizations"]
    return not isinstance(module, BaseTunerLayer) and (
        len(parts) > 1 or any(_has_parts(part) for part in parts)
    )


def _of_fixed_shape(compiled: Forward, *args: Any, **kwargs: Any) -> Any:
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            torch._dynamo.mark_static(value)
    return compiled(*args, **kwargs)


def _checkpointed(forward: Forward, adapter: Adapter | None, *args: Any, **kwargs: Any) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Recalled(adapter) if adapter else nullcontext()

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


class _Recalled(AbstractContextManager[None]):
    """The adapter's scale of now, whenever the block is entered."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._scale = adapter, adapter.scale

    def __enter__(self) -> None:
        self._former = self._adapter.scale
        self._adapter.set_scale(self._scale)

    def __exit__(self, *error: object) -> None:
        self._adapter.set_scale(self._former)


def _recast(layer: Any, forward: Forward, x: Tensor) -> Tensor:
    """The pass of a Linear or Conv2d."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or not torch.is_grad_enabled():
        return forward(x)
    weight, dtype = layer.weight, torch.get_autocast_dtype(kind)
    copy = weight.to(dtype)
    address = (
        copy.untyped_storage().data_ptr()
    )  # what is packed lives as long as its hooks: they may not hold the copy

    def pack(saved: Tensor) -> Tensor | _View:
        mine = saved.untyped_storage().data_ptr() == address
        return _View(saved.size(), saved.stride(), saved.storage_offset()) if mine else saved

    def unpack(packed: Tensor | _View) -> Tensor:
        return weight.to(dtype).as_strided(*packed) if isinstance(packed, _View) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return (
            F.linear(x, copy, layer.bias)
            if isinstance(layer, nn.Linear)
            else layer._conv_forward(x, copy, layer.bias)
        )


class _View(NamedTuple):
    """A view of a weight's copy: a product keeps it transposed."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: Any
