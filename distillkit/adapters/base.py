"""The interface of what a stage trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from distillkit.adapters.mapped import blended_layers, takes_map


class Adapter(ABC):
    """A scalable change of one network's weights that starts at zero.

    At scale s the weights are ``theta_0 + s (theta - theta_0)``: scale 0 is the frozen network bit
    for bit, scale 1 the trained one. A network carries at most one adapter at a time.
    """

    scale: float | Tensor = 1.0
    """A tensor of shape () where the scale is an input of a traced graph."""

    @abstractmethod
    def set_scale(self, scale: float | Tensor) -> None:
        """Set the scale absolutely, from 0 (frozen network) to 1 (trained network)."""

    @abstractmethod
    def tensors(self) -> dict[str, nn.Parameter]:
        """Return the trained tensors by name, in a fixed order."""

    @abstractmethod
    def layers(self) -> dict[nn.Module, nn.Module]:
        """Return the modules that hold the change, each with the layer that it adapts."""

    @abstractmethod
    def merge(self) -> None:
        """Merge the change, at its present scale, into the weights and remove the adapter.

        The weights are replaced, not written to: another model that shares them keeps them.
        """

    @contextmanager
    def at_scale(self, scale: float | Tensor) -> Iterator[None]:
        """Set the scale inside a ``with`` block; the former one comes back, also after an error."""
        former = self.scale
        self.set_scale(scale)
        try:
            yield
        finally:
            self.set_scale(former)

    @property
    def takes_map(self) -> bool:
        """Whether the scale may differ from pixel to pixel: all adapted layers are over images."""
        return takes_map(list(self.layers().values()))

    def at_map(self, scale_map: Tensor) -> AbstractContextManager[None]:
        """Let the scale differ from pixel to pixel inside a ``with`` block.

        Args:
            scale_map: (B, 1, h, w) of numbers in [0, 1], resized to what each layer gives.
        """
        return blended_layers(self, list(self.layers()), scale_map)

    def merged_at(self, scale: float) -> AbstractContextManager[None]:
        """Set the scale inside a ``with`` block, for passes without gradient.

        Where possible the network is as fast inside it as one without an adapter.
        """
        return self.at_scale(scale)
