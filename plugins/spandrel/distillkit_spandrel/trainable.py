"""Make networks of spandrel's trainable in evaluation mode, in which the engine keeps them.

Two of their modules are not. SPAN's ``Conv3XC`` computes the one kernel that it applies anew at
each call, through a copy without gradient. PLKSR's ``PLKConv2d`` writes into its own input, which
the backward pass needs. Each has a replacement that computes the same; what any other network does
wrong is found by :func:`check_gradient`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import PluginError

SHARE = 1e-3
"""How much the check's step shall change its loss, as a share of the image's deviation."""
TOLERANCE = 0.1
"""How far that change may be from the gradient's prediction, as a share of it."""
JOLT = 1e-2
"""Deviation of what is added to weights that no gradient reaches."""


class MergedConvolution(nn.Conv2d):
    """The 3x3 convolution to which SPAN's ``Conv3XC`` amounts.

    Args:
        original: The module that it replaces: three convolutions (1x1, 3x3, 1x1) and a skip.
    """

    def __init__(self, original: Any) -> None:
        original.update_params()
        merged = original.eval_conv
        super().__init__(merged.in_channels, merged.out_channels, 3, padding=1)
        self.load_state_dict(merged.state_dict())
        self.gain = original.conv[0].out_channels // merged.in_channels

    def original_state(self) -> dict[str, Tensor]:
        """Return tensors of a ``Conv3XC`` that amounts to this convolution."""
        assert self.bias is not None
        return expand_convolution(self.weight.detach(), self.bias.detach(), self.gain)


class PartialConvolution(nn.Module):
    """PLKSR's convolution of the first channels, without writing into its input.

    Args:
        original: The module that it replaces.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.conv = original.conv
        self.adds_input = getattr(original, "with_idt", False)

    def forward(self, x: Tensor) -> Tensor:
        count = self.conv.in_channels
        first, rest = x.split([count, x.shape[1] - count], dim=1)
        convolved = self.conv(first)
        if self.adds_input:
            convolved = convolved + first
        return torch.cat([convolved, rest], dim=1)


REPLACEMENTS: dict[str, Callable[[Any], nn.Module]] = {
    "Conv3XC": MergedConvolution,
    "PLKConv2d": PartialConvolution,
}
"""By name of the class: spandrel does not export these modules."""


def expand_convolution(kernel: Tensor, bias: Tensor, gain: int = 2) -> dict[str, Tensor]:
    """Write a 3x3 convolution as SPAN's ``Conv3XC``, to the last digit.

    Its 1x1 convolutions pass the channels on and its skip is zero, so everything is linear in the
    kernel: checkpoints written so may be interpolated.

    Args:
        kernel: (out, in, 3, 3).
        bias: (out,).
        gain: How many times as many channels the inner convolutions have.
    """
    outputs, inputs = kernel.shape[:2]
    inner = kernel.new_zeros(gain * outputs, gain * inputs, 3, 3)
    inner[:outputs, :inputs] = kernel
    inner_bias = bias.new_zeros(gain * outputs)
    inner_bias[:outputs] = bias
    first = torch.eye(gain * inputs, inputs, dtype=kernel.dtype, device=kernel.device)
    last = torch.eye(outputs, gain * outputs, dtype=kernel.dtype, device=kernel.device)
    return {
        "sk.weight": kernel.new_zeros(outputs, inputs, 1, 1),
        "sk.bias": bias.new_zeros(outputs),
        "conv.0.weight": first[:, :, None, None],
        "conv.0.bias": bias.new_zeros(gain * inputs),
        "conv.1.weight": inner,
        "conv.1.bias": inner_bias,
        "conv.2.weight": last[:, :, None, None],
        "conv.2.bias": bias.new_zeros(outputs),
        "eval_conv.weight": kernel,
        "eval_conv.bias": bias,
    }


def make_trainable(network: nn.Module) -> None:
    """Replace the modules of a network that cannot be trained in evaluation mode."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            replacement = REPLACEMENTS.get(type(child).__name__)
            if replacement is not None:
                setattr(parent, name, replacement(child).eval())


def to_checkpoint(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network under the names that spandrel reads.

    Args:
        network: Made trainable, without an adapter.
    """
    state = network.state_dict()
    for name, module in network.named_modules():
        if isinstance(module, MergedConvolution):
            for own in module.state_dict():
                del state[f"{name}.{own}"]
            for original, value in module.original_state().items():
                state[f"{name}.{original}"] = value
    # Copies: a file of safetensors holds no tensor twice.
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def check_gradient(
    network: nn.Module, restore: Callable[[nn.Module], Tensor], source: object
) -> None:
    """Check that a network's image follows the gradient of its weights.

    A small step down the gradient must change a loss as the gradient says. Weights that no
    gradient reaches are jolted, which must change nothing.

    Args:
        network: In evaluation mode. It is not changed.
        restore: Restores an image with a network, the same image at each call.
        source: What errors call the network.

    Raises:
        PluginError: The image does not follow, or the gradient cannot be computed.
    """
    trial = copy.deepcopy(network).requires_grad_(True)
    weights = [weight for weight in trial.parameters() if weight.is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    image = restore(trial)
    probe = torch.randn(image.shape, generator=generator) / image.numel() ** 0.5
    loss = (image * probe).sum()
    try:
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError as e:
        raise PluginError(f"{source} cannot be trained in evaluation mode: {e}") from e
    expected = SHARE * float(image.detach().std())
    with torch.no_grad():
        _step(weights, gradients, expected, generator)
        change = float(loss - (restore(trial) * probe).sum())
    if not abs(change - expected) <= TOLERANCE * expected:
        raise PluginError(
            f"{source} cannot be trained in evaluation mode: its image does not follow the "
            f"gradient of its weights (a step that should change a loss by {expected:.2g} changed "
            f"it by {change:.2g})"
        )


def _step(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    expected: float,
    generator: torch.Generator,
) -> None:
    """Step down the gradient as far as shall change the loss by ``expected``; jolt the others."""
    squares = sum(float(g.double().square().sum()) for g in gradients if g is not None)
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            weight += JOLT * torch.randn(weight.shape, generator=generator)
        else:
            weight -= expected / squares * gradient
