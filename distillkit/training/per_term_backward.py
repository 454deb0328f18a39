"""Gradients taken as soon as a loss is known, so that what it kept for its backward pass is let go of before the next is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Terms = dict[str, Tensor]


def settled(
    make: Callable[..., Terms], inputs: Sequence[Tensor | None], parameters: Sequence[Tensor]
) -> Terms:
    """``make(*inputs)``, the terms of a sum whose gradient with respect to inputs and parameters has been taken already.

    A backward pass through the result hands these gradients on; nothing else is kept for it. What ``make`` returns must depend on
    nothing else that has gradient.
    """
    own = [None if x is None else x.detach().requires_grad_() for x in inputs]
    terms = make(*own)
    if not terms:
        return {}
    into = [(leaf, x) for leaf, x in zip(own, inputs, strict=True) if leaf is not None] + [
        (p, p) for p in parameters
    ]
    loss = torch.stack(list(terms.values())).sum()
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, [leaf for leaf, _ in into], allow_unused=True)
    first, *others = terms
    value = _Settled.apply(terms[first].detach(), gradients, *(x for _, x in into))
    return {first: value} | {name: terms[name].detach() for name in others}


class _Settled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *inputs: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else upstream * g for g in ctx.gradients)
