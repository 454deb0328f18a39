"""Results that a caller may have from a former time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Known = Callable[[Callable[[], Tensor]], Tensor]
"""Takes the function that makes a result, without gradient, and gives the result; it need not call it where the result is known."""


def computed(compute: Callable[[], Tensor]) -> Tensor:
    """Nothing is known: what ``compute`` returns."""
    return compute()
