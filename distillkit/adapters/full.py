"""Adapters that change every weight freely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distillkit.adapters.base import Adapter
from distillkit.errors import PluginError


class _ScaledChange(nn.Module):
    """A parametrization that adds the adapter's change of one weight."""

    def __init__(self, original: Tensor, adapter: FullAdapter) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(original))
        # in a list, so that it is no submodule
        self._adapter = [adapter]

    def forward(self, original: Tensor) -> Tensor:
        return original + self._adapter[0].scale * self.delta


class FullAdapter(Adapter):
    """A free change of every weight of the network, or of some.

    Args:
        network: The network to adapt.
        only: The modules whose weights change, and the names of these weights; default: all.
    """

    def __init__(
        self, network: nn.Module, only: Sequence[tuple[nn.Module, str]] | None = None
    ) -> None:
        self._network = network
        self._weights = list(_weights_of(network) if only is None else only)
        # In a second loop: a parametrization moves the weight to another module.
        for module, name in self._weights:
            change = _ScaledChange(getattr(module, name), self)
            parametrize.register_parametrization(module, name, change)

    @torch.no_grad()
    def set_change(self, changes: Sequence[Tensor]) -> None:
        """Set the change of each weight, in the order of the weights."""
        for (module, name), change in zip(self._weights, changes, strict=True):
            parametrization: Any = module.parametrizations[name]  # type: ignore[index]
            parametrization[0].delta.copy_(change)

    @torch.no_grad()
    def interpolate_toward(self, other: nn.Module) -> None:
        """Set the change so that scale 1 gives the weights of ``other``.

        Raises:
            PluginError: A network of another shape.
        """
        targets = list(other.parameters())
        weights: list[Any] = []
        for module, name in self._weights:
            weights.append(module.parametrizations[name])  # type: ignore[index]
        if [t.shape for t in targets] != [w.original.shape for w in weights]:
            raise PluginError(
                f"a {type(other).__name__} of another shape cannot be interpolated with "
                f"{type(self._network).__name__}"
            )
        pairs = zip(weights, targets, strict=True)
        self.set_change([target - weight.original for weight, target in pairs])

    def set_scale(self, scale: float | Tensor) -> None:
        self.scale = scale

    def tensors(self) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for name, parameter in self._network.named_parameters():
            if name.endswith(".delta"):
                trained[name] = parameter
        return trained

    def layers(self) -> dict[nn.Module, nn.Module]:
        return {module: module for module, _ in self._weights}

    def merge(self) -> None:
        for module, name in self._weights:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _weights_of(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in network.modules():
        for name, _ in module.named_parameters(recurse=False):
            yield module, name
