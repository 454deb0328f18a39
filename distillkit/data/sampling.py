"""What comes at a given position of an endless sequence: pure functions, so that any process can start at any position."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from distillkit.data.seeds import keyed_generator

_BLOCK = 1000


def interleave(weights: Sequence[float], position: int, *key: str | int) -> tuple[int, int]:
    """The choice at ``position`` of a random sequence that shares its positions out by weight.

    Every block of 1000 positions holds each choice in proportion to its weight (to within one, and at least one), in an order
    of the block's own that depends on ``key``.

    Returns:
        the index of the choice, and how many earlier positions made the same choice.
    """
    counts = _shares(tuple(weights))
    block, within = divmod(position, sum(counts))
    order = _order(counts, block, key)
    choice = int(order[within])
    return choice, block * counts[choice] + int((order[:within] == choice).sum())


def shuffled(count: int, position: int, *key: str | int) -> int:
    """Item ``position`` of a sequence that runs through ``range(count)`` again and again, each time in a new random order."""
    epoch, within = divmod(position, count)
    return int(_permutation(count, *key, epoch)[within])


@lru_cache(maxsize=64)
def _shares(weights: tuple[float, ...]) -> list[int]:
    """Positions of each choice in a block: whole numbers, at least 1, as near as possible to the weights."""
    size = max(_BLOCK, len(weights))
    ideal = [weight / sum(weights) * size for weight in weights]
    counts = [max(1, int(share)) for share in ideal]
    while sum(counts) != size:
        step = 1 if sum(counts) < size else -1
        allowed = [k for k in range(len(counts)) if counts[k] + step >= 1]
        counts[max(allowed, key=lambda k: step * (ideal[k] - counts[k]))] += step
    return counts


def _order(counts: list[int], block: int, key: tuple[str | int, ...]) -> Tensor:
    choices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return choices[_permutation(len(choices), *key, block)]


@lru_cache(maxsize=32)
def _permutation(count: int, *key: str | int) -> Tensor:
    return torch.randperm(count, generator=keyed_generator(*key))
