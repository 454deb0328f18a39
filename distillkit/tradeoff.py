"""The tradeoff: a number from 0 (most realistic) to 1 (most faithful).

It is checked once, where it enters (the Restorer, the command line, a recipe); below that it is a
plain number in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from torch import Tensor

Tradeoff: TypeAlias = "float | Tensor"
"""A number in [0, 1]; or a tensor of such numbers: () where a graph is traced, or a map
(B, 1, h, w) of one for each pixel."""

REALISTIC = 0.0
"""The tradeoff of the stage-1 student."""
FAITHFUL = 1.0


def check_tradeoff(value: Any) -> float:
    """Return ``value`` as a float.

    Raises:
        DistillkitError: It is not a number from 0 to 1.
    """
    try:
        tradeoff = float(value)
    except (TypeError, ValueError):
        tradeoff = float("nan")
    # A comparison with nan is false, so nan is refused here as well.
    if not REALISTIC <= tradeoff <= FAITHFUL:
        raise DistillkitError(f"a tradeoff is a number from 0 to 1, not {value}")
    return tradeoff
