"""Gradient checkpointing: activations inside a block are made again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.checkpoint import checkpoint

from distillkit.diffusion.adapters import Adapter


@contextmanager
def recomputed(models: Iterable[nn.Module], adapter: Adapter | None) -> Iterator[None]:
    """Inside the ``with`` block, the blocks of ``models`` keep their inputs only; gradients are what they would be without.

    A block is whatever an ``nn.ModuleList`` holds, at the innermost level of such lists; a network without lists is one block.

    Args:
        adapter: the one that may be on them: a block is made again under the scale that it was first made with, whatever the scale
            is at the time of the backward pass.
    """
    blocks = [block for model in models for child in model.children() for block in _blocks(child)]
    for block in blocks:
        block.forward = partial(_checkpointed, block.forward, adapter)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    if not any(isinstance(m, nn.ModuleList) and not isinstance(m, ParametrizationList) for m in module.modules()):
        if any(module.children()):
            yield module
        return
    for child in module.children():
        yield from _blocks(child)


def _checkpointed(forward: Callable[..., Any], adapter: Adapter | None, *args: Any, **kwargs: Any) -> Any:
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
