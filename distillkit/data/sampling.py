"""Endless random sequences as functions of the position.

Being pure, they let any process start at any position.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from distillkit.data.seeds import keyed_generator

_BLOCK = 1000


def interleave(
    weights: Sequence[float],
    position: int,
    *key: str | int,
) -> tuple[int, int]:
    """Look up a choice in a random sequence that follows weights.

    Every block of 1000 positions holds each choice in proportion to its weight (to within one, and
    at least one), in an order of its own.

    Args:
        weights: The weights of the choices.
        position: From 0 on.
        key: The order depends on it.

    Returns:
        The index of the choice, and how many earlier positions have the same choice.
    """
    counts = _share_block(tuple(weights))
    block, place = divmod(position, sum(counts))
    order = _order_of_block(counts, block, key)
    choice = int(order[place])
    earlier_here = int((order[:place] == choice).sum())
    return choice, block * counts[choice] + earlier_here


def shuffled(
    count: int,
    position: int,
    *key: str | int,
) -> int:
    """Look up an item of ``range(count)``, in a new random order each epoch."""
    epoch, place = divmod(position, count)
    return int(_permutation(count, *key, epoch)[place])


@lru_cache(maxsize=64)
def _share_block(weights: tuple[float, ...]) -> list[int]:
    """Count the positions of each choice in a block.

    Every choice has at least one; the others follow the weights.
    """
    size = max(_BLOCK, len(weights))
    total = sum(weights)
    ideal = [weight / total * size for weight in weights]
    # Rounded down first; the positions that are left go to those that lack the most.
    counts = [max(1, int(share)) for share in ideal]

    def deficit(choice: int) -> float:
        return ideal[choice] - counts[choice]

    choices = range(len(counts))
    while sum(counts) < size:
        counts[max(choices, key=deficit)] += 1
    while sum(counts) > size:
        # A choice with one position keeps it.
        reducible = [choice for choice in choices if counts[choice] > 1]
        counts[min(reducible, key=deficit)] -= 1
    return counts


def _order_of_block(
    counts: list[int],
    block: int,
    key: tuple[str | int, ...],
) -> Tensor:
    numbers = torch.arange(len(counts))
    choices = torch.repeat_interleave(numbers, torch.tensor(counts))
    order = _permutation(len(choices), *key, block)
    return choices[order]


@lru_cache(maxsize=32)
def _permutation(count: int, *key: str | int) -> Tensor:
    return torch.randperm(count, generator=keyed_generator(*key))
