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
    loss_scale: Tensor,
) -> Losses:
    """Compute terms of a loss, and the gradient of their sum at once.

    A backward pass through the returned terms hands this gradient on; nothing else is kept for it.

    Args:
        compute: Called with the inputs. Its terms may depend on nothing else that has gradient
            than ``inputs`` and ``parameters``.
        inputs: Tensors of the graph so far; None stays None.
        parameters: Trained tensors that ``compute`` uses.
        loss_scale: The backward pass through the terms will begin with it, (). The gradient is
            taken at this scale too, so that it does not vanish in float16.

    Returns:
        What ``compute`` returned, in float32. The first term carries the gradient of all.
    """
    leaves = [_leaf(x) for x in inputs]
    # float32, because scaled losses and sums of them may be more than float16 holds
    terms = {name: term.float() for name, term in compute(*leaves).items()}
    if not terms:
        return {}
    sources = [leaf for leaf in leaves if leaf is not None]
    sources += parameters
    targets = [x for x in inputs if x is not None]
    targets += parameters
    loss = torch.stack(list(terms.values())).sum()
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss * loss_scale, sources, allow_unused=True)
    values = {name: term.detach() for name, term in terms.items()}
    first = next(iter(values))
    values[first] = _WithGradient.apply(values[first], gradients, loss_scale, *targets)
    return values


def _leaf(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.detach().requires_grad_()


class _WithGradient(torch.autograd.Function):
    """A value whose gradients with respect to the inputs are known, times a scale."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        gradients: Sequence[Tensor | None],
        scale: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.gradients = gradients
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream / ctx.scale
        scaled: list[Tensor | None] = []
        for gradient in ctx.gradients:
            scaled.append(None if gradient is None else factor * gradient)
        return None, None, None, *scaled
