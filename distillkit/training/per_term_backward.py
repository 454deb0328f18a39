"""Take the gradient of each term as soon as it is known, so that its activations are freed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distillkit.objectives.reconstruction import Losses


def backward_per_term(
    compute: Callable[..., Losses],
    inputs: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
) -> Losses:
    """Compute terms of a loss, and the gradient of their sum at once.

    A backward pass through the returned terms hands this gradient on; nothing else is kept for it.

    Args:
        compute: Called with the inputs. Its terms may depend on nothing else that has gradient
            than ``inputs`` and ``parameters``.
        inputs: Tensors of the graph so far; None stays None.
        parameters: Trained tensors that ``compute`` uses.

    Returns:
        What ``compute`` returned. The first term carries the gradient of all.
    """
    leaves = [_leaf(x) for x in inputs]
    terms = compute(*leaves)
    if not terms:
        return {}
    sources = [leaf for leaf in leaves if leaf is not None]
    sources += parameters
    targets = [x for x in inputs if x is not None]
    targets += parameters
    loss = torch.stack(list(terms.values())).sum()
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, sources, allow_unused=True)
    values = {name: term.detach() for name, term in terms.items()}
    first = next(iter(values))
    values[first] = _WithGradient.apply(values[first], gradients, *targets)
    return values


def _leaf(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.detach().requires_grad_()


class _WithGradient(torch.autograd.Function):
    """A value whose gradients with respect to the inputs are known already."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        gradients: Sequence[Tensor | None],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled: list[Tensor | None] = []
        for gradient in ctx.gradients:
            scaled.append(None if gradient is None else upstream * gradient)
        return None, None, *scaled
