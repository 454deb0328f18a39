"""Adapters, the trainable change of a network's weights, and storage that frozen models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from distillkit.adapters.base import Adapter
from distillkit.adapters.full import FullAdapter
from distillkit.adapters.lora import LoRAAdapter

__all__ = ["Adapter", "FullAdapter", "LoRAAdapter", "add_adapter"]


def add_adapter(
    network: nn.Module,
    kind: Literal["lora", "full"],
    *,
    rank: int = 4,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> Adapter:
    """Freeze ``network`` and put a zero adapter on it, whose tensors alone are trainable.

    Args:
        network: The network to adapt.
        kind: ``"lora"`` (low rank) or ``"full"`` (every weight).
        rank: LoRA's rank.
        alpha: LoRA's alpha; default: the rank.
        targets: Endings of the names of the layers that LoRA adapts; default: every Linear and
            every Conv2d without groups.
        seed: Seed of LoRA's random factor A.

    Raises:
        PluginError: No layer matches ``targets``.
    """
    network.requires_grad_(False)
    if kind == "full":
        return FullAdapter(network)
    return LoRAAdapter(network, rank, alpha or rank, targets, seed)
