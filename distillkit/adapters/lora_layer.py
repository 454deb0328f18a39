"""One layer with a change of low rank beside it: what ``peft`` does, in the part that we need.

peft imports transformers, which takes three seconds: as long as all the rest of restoring a photo.
Tensors are named and initialized as peft's, so its files and ours are the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Factor = nn.Linear | nn.Conv2d

NAME = "distillkit"
"""peft has a name for each adapter of a layer; this one is in the names of our tensors."""


class LoRALayer(nn.Module):
    """``base(x) + scaling B(A(x))``, with A random and B zero at first.

    Args:
        base: A Linear, or a Conv2d without groups.
        rank: Channels between A and B.
    """

    def __init__(self, base: Factor, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.scaling: float | Tensor = 1.0
        a, b = _make_factors(base, rank)
        nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
        nn.init.zeros_(b.weight)
        for factor in (a, b):
            factor.to(base.weight.device, base.weight.dtype)
        self.lora_A = nn.ModuleDict({NAME: a})
        self.lora_B = nn.ModuleDict({NAME: b})

    @property
    def weight(self) -> Tensor:
        """The base layer's weight, from which networks read its dtype or device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        a: Any = self.lora_A[NAME]
        change = self.lora_B[NAME](a(x.to(a.weight.dtype))) * self.scaling
        return (result + change).to(result.dtype)

    def weight_change(self) -> Tensor:
        """Compute ``scaling B A``, of the base weight's shape."""
        a: Any = self.lora_A[NAME].weight
        b: Any = self.lora_B[NAME].weight
        if isinstance(self.base_layer, nn.Linear):
            return b @ a * self.scaling
        if self.base_layer.kernel_size == (1, 1):
            product = b.flatten(1) @ a.flatten(1)
            return product[..., None, None] * self.scaling
        return F.conv2d(a.transpose(0, 1), b).transpose(0, 1) * self.scaling


def _make_factors(base: Factor, rank: int) -> tuple[Factor, Factor]:
    """Make A and B, in this order: each draws random numbers."""
    if isinstance(base, nn.Linear):
        linear = nn.Linear(base.in_features, rank, bias=False)
        return linear, nn.Linear(rank, base.out_features, bias=False)
    convolution = nn.Conv2d(
        base.in_channels,
        rank,
        base.kernel_size,  # type: ignore[arg-type]
        base.stride,  # type: ignore[arg-type]
        base.padding,  # type: ignore[arg-type]
        base.dilation,  # type: ignore[arg-type]
        bias=False,
        padding_mode=base.padding_mode,
    )
    return convolution, nn.Conv2d(rank, base.out_channels, 1, bias=False)
