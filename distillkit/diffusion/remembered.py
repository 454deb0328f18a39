"""What a model's ``condition`` encodes of an input, for the engine to keep where the same input comes again.

As with captions, whoever has the input in hands says who keeps what is made of it (:func:`remembering`), and the model offers it
(:func:`current_memory`). A model that offers nothing encodes its input every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Memory = Callable[[str, Callable[[], Tensor]], Tensor]
"""``memory(what, compute)``: what ``compute()`` returns, or did for the same input before. ``what`` names it within the model."""


def nothing_kept(what: str, compute: Callable[[], Tensor]) -> Tensor:
    """The memory where there is none."""
    return compute()


_current: ContextVar[Memory] = ContextVar("memory", default=nothing_kept)


@contextmanager
def remembering(memory: Memory) -> Iterator[None]:
    """Inside the block, ``memory`` keeps what the model that is asked for a ``condition`` makes of its input."""
    token = _current.set(memory)
    try:
        yield
    finally:
        _current.reset(token)


def current_memory() -> Memory:
    """For a model to ask for in its ``condition``, and to use then or later.

    It is for what a part that is never trained makes of the input alone, without gradient and without draws.

    >>> latent = current_memory()("latent", lambda: self.codec.encode(enlarged(lq)))
    """
    return _current.get()
