"""Per-block settings of networks: gradient checkpointing, compilation, weight re-casting.

A block is what an ``nn.ModuleList`` or ``nn.Sequential`` holds at the innermost level of such
lists: a residual block, a transformer block. Layers, with or without an adapter, and lists of
layers belong to a block. A network without lists is one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from distillkit.adapters import Adapter
from distillkit.adapters.lora_layer import LoRALayer

Forward = Callable[..., Any]

MAX_GRAPHS = 64
"""Graphs compiled for one class of blocks: one for each shape that its blocks come in."""


@contextmanager
def gradient_checkpointing(models: Iterable[nn.Module], adapter: Adapter | None) -> Iterator[None]:
    """Keep only the inputs of blocks, and recompute the rest in the backward pass.

    Gradients are the same as without.

    Args:
        models: Their blocks are checkpointed inside the context.
        adapter: The adapter that may be on them. A block is recomputed at the scale of its first
            computation, whatever the scale is at the time of the backward pass.
    """

    def checkpointed(block: nn.Module) -> Forward:
        return partial(_checkpointed_forward, block.forward, adapter)

    with _replaced_forward(blocks_of(models), checkpointed):
        yield


@contextmanager
def recast_weights(models: Iterable[nn.Module]) -> Iterator[None]:
    """In mixed precision, cast frozen weights again in the backward pass.

    Autocast casts a layer's weights at each pass, and the gradient needs the copy: without this
    context it is kept until then. Gradients are the same as without.
    """

    def recasting(layer: nn.Module) -> Forward:
        return partial(_recasting_forward, layer, layer.forward)

    with _replaced_forward(_frozen_layers(models), recasting):
        yield


@contextmanager
def compile_blocks(models: Iterable[nn.Module], backend: str = "inductor") -> Iterator[None]:
    """Compile each block by itself; blocks of one class and shape share the compiled code.

    Each shape gets a graph of its own: crops come in few, and code for any shape is slower, where
    it can be compiled at all. An adapter's scale may be anything. Enter this context before
    :func:`gradient_checkpointing` where both are wanted.
    """

    def compiled(block: nn.Module) -> Forward:
        return partial(_fixed_shape_forward, torch.compile(block.forward, backend=backend))

    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, MAX_GRAPHS)
    try:
        with _replaced_forward(blocks_of(models), compiled):
            yield
    finally:
        torch._dynamo.config.recompile_limit = limit


def blocks_of(models: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Iterate over all blocks of all ``models``."""
    for model in models:
        for child in model.children():
            yield from _innermost_blocks(child)


def _innermost_blocks(module: nn.Module) -> Iterator[nn.Module]:
    if any(_lists_blocks(inner) for inner in module.modules()):
        for child in module.children():
            yield from _innermost_blocks(child)
    elif _is_composed(module):
        yield module


def _lists_blocks(module: nn.Module) -> bool:
    """Whether ``module`` is a list of blocks."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    return any(_is_composed(item) for item in module)


def _is_composed(module: nn.Module) -> bool:
    """Whether ``module`` is more than a layer, or than a wrapping of one."""
    if isinstance(module, LoRALayer):
        return False
    children = dict(module.named_children())
    # what a full adapter adds to a layer
    children.pop("parametrizations", None)
    if len(children) > 1:
        return True
    return any(_is_composed(child) for child in children.values())


def _frozen_layers(models: Iterable[nn.Module]) -> list[nn.Module]:
    """Find the layers whose frozen weights autocast would copy; each once."""
    layers: dict[nn.Module, None] = {}
    for model in models:
        for module in model.modules():
            # A subclass may use its weight in other ways.
            if type(module) in (nn.Linear, nn.Conv2d) and not module.weight.requires_grad:
                layers[module] = None
    return list(layers)


@contextmanager
def _replaced_forward(
    modules: Iterable[nn.Module], replace: Callable[[nn.Module], Forward]
) -> Iterator[None]:
    """Give each module the ``forward`` that ``replace`` returns for it, inside the context."""
    # The second entry is an earlier replacement, which comes back at the end; None without one.
    former = [(module, vars(module).get("forward")) for module in modules]
    for module, _ in former:
        module.forward = replace(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, forward in former:
            if forward is None:
                del module.forward
            else:
                module.forward = forward  # type: ignore[method-assign]


def _fixed_shape_forward(forward: Forward, *args: Any, **kwargs: Any) -> Any:
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            torch._dynamo.mark_static(value)
    return forward(*args, **kwargs)


def _checkpointed_forward(
    forward: Forward, adapter: Adapter | None, *args: Any, **kwargs: Any
) -> Any:
    recomputing: AbstractContextManager[None] = nullcontext()
    if adapter is not None:
        recomputing = _AtScale(adapter, adapter.scale)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), recomputing),
        **kwargs,
    )


class _AtScale(AbstractContextManager[None]):
    """Sets an adapter's scale; unlike ``Adapter.at_scale``, it can be entered repeatedly."""

    def __init__(self, adapter: Adapter, scale: float | Tensor) -> None:
        self._adapter = adapter
        self._scale = scale

    def __enter__(self) -> None:
        self._former = self._adapter.scale
        self._adapter.set_scale(self._scale)

    def __exit__(self, *error: object) -> None:
        self._adapter.set_scale(self._former)


class _CopyView(NamedTuple):
    """A view of a weight's copy: a matrix product keeps it transposed."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


def _recasting_forward(layer: Any, forward: Forward, x: Tensor) -> Tensor:
    """Run a Linear or Conv2d so that autograd keeps no cast copy of its weight."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or not torch.is_grad_enabled():
        return forward(x)
    weight = layer.weight
    dtype = torch.get_autocast_dtype(device)
    copy = weight.to(dtype)
    # What is packed lives as long as these hooks, which therefore may not hold the copy itself.
    address = copy.untyped_storage().data_ptr()

    def pack(saved: Tensor) -> Tensor | _CopyView:
        if saved.untyped_storage().data_ptr() != address:
            return saved
        return _CopyView(saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Tensor | _CopyView) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return weight.to(dtype).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        if isinstance(layer, nn.Linear):
            return F.linear(x, copy, layer.bias)
        return layer._conv_forward(x, copy, layer.bias)
