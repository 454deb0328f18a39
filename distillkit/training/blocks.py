"""What networks repeat: their blocks, made again in the backward pass instead of being kept, or compiled.

A block is what an ``nn.ModuleList`` or ``nn.Sequential`` holds at the innermost level of such lists: a residual block, a
transformer block. Layers, with or without an adapter, and lists of layers are parts of blocks. A network without lists is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint

from distillkit.diffusion.adapters import Adapter


@contextmanager
def recomputed(models: Iterable[nn.Module], adapter: Adapter | None) -> Iterator[None]:
    """Gradient checkpointing: blocks keep their inputs only while this context lasts; gradients are what they would be without.

    Args:
        adapter: the one that may be on them: a block is made again under the scale that it was first made with, whatever the scale
            is at the time of the backward pass.
    """
    with _replaced(models, lambda forward: partial(_checkpointed, forward, adapter)):
        yield


@contextmanager
def compiled(models: Iterable[nn.Module], backend: str = "inductor") -> Iterator[None]:
    """Regional compilation: each block is compiled by itself, and those of one class and shape share what is compiled.

    Enter it before :func:`recomputed` where both are wanted.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, 64)  # one for each shape that the blocks of a class come in
    try:
        with _replaced(models, partial(torch.compile, backend=backend)):
            yield
    finally:
        torch._dynamo.config.recompile_limit = limit


Forward = Callable[..., Any]


@contextmanager
def _replaced(models: Iterable[nn.Module], wrap: Callable[[Forward], Forward]) -> Iterator[None]:
    """The blocks' ``forward`` wrapped, until the end of the context."""
    blocks = list(blocks_of(models))
    former = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = wrap(block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block, forward in zip(blocks, former, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward  # type: ignore[method-assign]


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
    return isinstance(module, nn.ModuleList | nn.Sequential) and any(_has_parts(part) for part in module)


def _has_parts(module: nn.Module) -> bool:
    """Whether ``module`` is more than a layer, or a wrapping of one; what an adapter adds to a layer is no part."""
    parts = [child for name, child in module.named_children() if name != "parametrizations"]
    return not isinstance(module, BaseTunerLayer) and (len(parts) > 1 or any(_has_parts(part) for part in parts))


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
