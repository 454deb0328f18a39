"""Make networks of spandrel's trainable in evaluation mode, in which the engine keeps them.

Two of spandrel's modules are not. SPAN's ``Conv3XC`` merges its convolutions into one kernel at
each call, through a copy without gradient. PLKSR's ``PLKConv2d`` writes into its own input, which
the backward pass needs. Replacements compute the same; other such modules, of architectures to
come, are found by :func:`check_gradient`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import PluginError

STEP = 1e-3
"""By how much a step of :func:`check_gradient` should change its loss, as a share of the standard
deviation of the image."""
TOLERANCE = 0.3
"""How far that change may be from the gradient's prediction, as a share of it."""
PERTURBATION = 1e-2
"""Standard deviation of the noise that is added to weights without a gradient."""


class PartialConvolution(nn.Module):
    """PLKSR's convolution of the first channels, without writing into its input.

    Args:
        original: The module that it replaces.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.conv = original.conv
        self.count = original.conv.in_channels
        self.adds_input = getattr(original, "with_idt", False)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.count, x.shape[1] - self.count], dim=1)
        convolved = self.conv(first)
        if self.adds_input:
            convolved = convolved + first
        return torch.cat([convolved, rest], dim=1)


def make_trainable(network: nn.Module) -> dict[str, int]:
    """Replace the modules of a network that cannot be trained in evaluation mode.

    spandrel does not export their classes, which are therefore known by name.

    Returns:
        The names of merged convolutions, and how many times as many channels their originals have
        inside: what :func:`to_checkpoint` needs to write them back.
    """
    gains = {}
    for name, module in list(network.named_modules()):
        kind = type(module).__name__
        if kind == "Conv3XC":
            gains[name] = module.conv[0].out_channels // module.conv[0].in_channels
            _replace(network, name, _merge(module))
        elif kind == "PLKConv2d":
            _replace(network, name, PartialConvolution(module).eval())
    return gains


def to_checkpoint(network: nn.Module, gains: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the tensors of a network under the names that spandrel reads.

    Args:
        network: Made trainable, without an adapter.
        gains: What :func:`make_trainable` returned.
    """
    state = network.state_dict()
    for name, gain in gains.items():
        kernel, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
        for original, value in expand_convolution(kernel, bias, gain).items():
            state[f"{name}.{original}"] = value
    # Copies: a file of safetensors holds no tensor twice.
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


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


def expand_merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Complete a checkpoint of SPAN that holds its merged convolutions alone.

    spandrel itself does not know such files, which are a fifth as large as full ones.

    Args:
        state: Named tensors; those of other networks come back as they are.
    """
    completed = dict(state)
    for name, kernel in state.items():
        convolution = name.removesuffix(".eval_conv.weight")
        if convolution == name or kernel.shape[2:] != (3, 3):
            continue
        # Beside some of the other tensors, the merged ones may be older: they count only alone.
        own = {other for other in state if other.startswith(f"{convolution}.")}
        bias = f"{convolution}.eval_conv.bias"
        if own == {name, bias}:
            for original, value in expand_convolution(kernel, state[bias]).items():
                completed[f"{convolution}.{original}"] = value
    return completed


def _merge(original: Any) -> nn.Module:
    """Return the convolution to which a ``Conv3XC`` amounts: its three and its skip in one."""
    original.update_params()
    return original.eval_conv


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def check_gradient(
    network: nn.Module, restore: Callable[[nn.Module], Tensor], source: object
) -> None:
    """Check that a network's image follows the gradient of its weights.

    Small steps down and up the gradient must change a loss as the gradient says. Weights that no
    gradient reaches are perturbed, which must change nothing.

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
    expected = STEP * float(image.detach().std())
    with torch.no_grad():
        # A step down and one up: what bends the loss, as weights of sharp networks do, cancels.
        _step(weights, gradients, expected, generator)
        below = (restore(trial) * probe).sum()
        _step(weights, gradients, -2 * expected, generator)
        above = (restore(trial) * probe).sum()
        change = float(above - below) / 2
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
    """Step down the gradient as far as should lower the loss by ``expected``.

    Weights without a gradient are perturbed.
    """
    squares = sum(float(g.double().square().sum()) for g in gradients if g is not None)
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            weight += PERTURBATION * torch.randn(weight.shape, generator=generator)
        else:
            weight -= expected / squares * gradient
