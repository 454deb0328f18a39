"""What a stage trains: a change of the denoiser's weights that starts at zero and can be scaled.

With the adapter at scale s the weights are ``theta_0 + s (theta - theta_0)``. Scale 0 is the frozen network bit for bit, scale 1
the trained one. The change is either of low rank (LoRA through peft; Hu et al. 2021) or free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distillkit.adapters.sharing import is_sharded, laid_out_like
from distillkit.errors import PluginError

_NAME = "distillkit"


class Adapter(ABC):
    """A scalable change of one network's weights. At most one is on a network at a time."""

    scale: float | Tensor = 1.0
    """A tensor () where the scale is an input of a traced graph."""

    @abstractmethod
    def set_scale(self, scale: float | Tensor) -> None:
        """Set the scale absolutely, 0 (frozen network) to 1 (trained network)."""

    @abstractmethod
    def tensors(self) -> dict[str, nn.Parameter]:
        """The trained tensors by name, in a fixed order."""

    @abstractmethod
    def merge(self) -> None:
        """Fold the change, at its present scale, into the weights and take the adapter off the network.

        The weights are replaced, not written to: another model that shares them keeps them.
        """

    @contextmanager
    def at(self, scale: float | Tensor) -> Iterator[None]:
        """The scale within a ``with`` block; the former one is restored on exit, also on an error."""
        former = self.scale
        self.set_scale(scale)
        try:
            yield
        finally:
            self.set_scale(former)

    def folded(self, scale: float) -> AbstractContextManager[None]:
        """As :meth:`at`, without gradient, and as fast as the network without an adapter where that can be had."""
        return self.at(scale)


class LoRAAdapter(Adapter):
    """LoRA on Linear and Conv2d layers: ``W + scale (alpha / rank) B A``, B starting at zero."""

    def __init__(
        self, network: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None, seed: int
    ) -> None:
        self._network = network
        self._unit = alpha / rank
        self._folded_at: float | None = None
        names = [
            n
            for n, m in network.named_modules()
            if isinstance(m, nn.Linear | nn.Conv2d) and _wanted(n, targets)
        ]
        if not names:
            raise PluginError(
                f"no Linear or Conv2d layer of {type(network).__name__} ends in one of {list(targets or [])}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(
                LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), network, _NAME
            )  # type: ignore[arg-type]
        self._layers: dict[str, Any] = {
            n: m for n, m in network.named_modules() if isinstance(m, LoraLayer)
        }
        for parameter in self.tensors().values():
            parameter.requires_grad_(True)

    def set_scale(self, scale: float | Tensor) -> None:
        self.scale = scale
        for layer in self._layers.values():
            layer.scaling[_NAME] = scale * self._unit

    @contextmanager
    def folded(self, scale: float) -> Iterator[None]:
        """As :meth:`at`, without gradient: for the ``with`` block the network has plain layers with the weights of that scale.

        At 0 they are the frozen ones themselves, else a copy of those adapted. A block inside one of the same scale costs nothing.
        Weights that are sharded are not folded: then it is :meth:`at`.

        Raises:
            ValueError: inside a block of another scale.
        """
        if is_sharded(self._network):
            with self.at(scale), torch.no_grad():
                yield
            return
        if self._folded_at is not None:
            if self._folded_at != scale:
                raise ValueError(
                    f"the weights are folded at {self._folded_at:g}: they cannot be at {scale:g}"
                )
            yield
            return
        with self.at(scale), torch.no_grad():
            frozen = {
                layer.get_base_layer(): layer.get_base_layer().weight
                for layer in self._layers.values()
            }
            self._folded_at = scale
            try:
                for name, layer in self._layers.items():
                    if scale:
                        base = layer.get_base_layer()
                        base.weight = nn.Parameter(
                            base.weight + layer.get_delta_weight(_NAME), requires_grad=False
                        )
                    self._put(name, layer.get_base_layer())
                yield
            finally:
                for base, weight in frozen.items():
                    base.weight = weight
                for name, layer in self._layers.items():
                    self._put(name, layer)
                self._folded_at = None

    def tensors(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._network.named_parameters() if f".{_NAME}." in n}

    @torch.no_grad()
    def merge(self) -> None:
        for name, layer in self._layers.items():
            base: Any = layer.get_base_layer()
            change = laid_out_like(base.weight, layer.get_delta_weight(_NAME))  # type: ignore[attr-defined, operator]
            base.load_state_dict(
                {"weight": base.weight.clone().add_(change)}, strict=False, assign=True
            )
            self._put(name, base)
        del self._network.peft_config

    def _put(self, name: str, layer: nn.Module) -> None:
        """Have ``layer`` where the network has what is called ``name``."""
        parent, _, leaf = name.rpartition(".")
        setattr(self._network.get_submodule(parent), leaf, layer)


class _Difference(nn.Module):
    def __init__(self, original: Tensor, owner: FullAdapter) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(original))
        self._owner = [owner]  # in a list, so that it is no submodule

    def forward(self, original: Tensor) -> Tensor:
        return original + self._owner[0].scale * self.delta


class FullAdapter(Adapter):
    """A free change of every weight of the network."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._places = [
            (m, n)
            for m in list(network.modules())
            for n in list(dict(m.named_parameters(recurse=False)))
        ]
        for module, name in self._places:
            parametrize.register_parametrization(
                module, name, _Difference(getattr(module, name), self)
            )

    @torch.no_grad()
    def aim_at(self, other: nn.Module) -> None:
        """Set the change so that scale 1 gives the weights of ``other``.

        Raises:
            PluginError: a network of another shape.
        """
        targets = list(other.parameters())
        originals: list[Any] = [module.parametrizations[name] for module, name in self._places]  # type: ignore[index]
        if [t.shape for t in targets] != [o.original.shape for o in originals]:
            raise PluginError(
                f"a {type(other).__name__} of another shape cannot be interpolated with {type(self._network).__name__}"
            )
        for original, target in zip(originals, targets, strict=True):
            original[0].delta.copy_(target - original.original)

    def set_scale(self, scale: float | Tensor) -> None:
        self.scale = scale

    def tensors(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._network.named_parameters() if n.endswith(".delta")}

    def merge(self) -> None:
        for module, name in self._places:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


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
        kind: ``"lora"`` or ``"full"``. rank, alpha: of LoRA; alpha defaults to rank.
        targets: endings of the names of the layers that LoRA adapts; default every Linear and Conv2d.
        seed: of LoRA's random factor A.

    Raises:
        PluginError: no layer matches ``targets``.
    """
    network.requires_grad_(False)
    return (
        FullAdapter(network)
        if kind == "full"
        else LoRAAdapter(network, rank, alpha or rank, targets, seed)
    )


def _wanted(name: str, targets: Sequence[str] | None) -> bool:
    return targets is None or any(name == t or name.endswith(f".{t}") for t in targets)
