"""What is said about the images at work: texts, for the models that take them.

A caption travels with its image, but few models ask for one. So it is no argument of every call between a batch and a model's
``condition``: whoever has a batch in hands says what holds for it (:func:`captioned`), and a model asks (:func:`current_captions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from distillkit.errors import DistillkitError

_current: ContextVar[Sequence[str | None] | None] = ContextVar("captions", default=None)


@contextmanager
def captioned(captions: Sequence[str | None] | None) -> Iterator[None]:
    """Inside the block, these are the captions of the images that models are asked about; None: there are none.

    They hold in this thread, until the block or one inside it ends. One caption an image, None for an image without.

    >>> with captioned(["a red-brick house"]):
    ...     restored = restorer(photo)
    """
    token = _current.set(captions)
    try:
        yield
    finally:
        _current.reset(token)


def current_captions(lq: Tensor) -> list[str | None]:
    """The caption of each image of ``lq`` (B, 3, h, w), for a model with ``takes_captions`` to use in its ``condition``.

    None stands for an image that has none: a bare image, or one of a source without a caption column.

    Raises:
        DistillkitError: as many captions as there are images were not given.
    """
    captions = _current.get()
    if captions is None:
        return [None] * len(lq)
    if len(captions) != len(lq):
        raise DistillkitError(
            f"{len(captions)} captions for {len(lq)} images; a batch needs one each"
        )
    return list(captions)
