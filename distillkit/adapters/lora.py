"""Adapters of low rank (LoRA; Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.adapters.base import Adapter
from distillkit.adapters.full import FullAdapter
from distillkit.adapters.lora_layer import NAME, LoRALayer
from distillkit.adapters.shared_storage import is_sharded, shard_like
from distillkit.errors import DistillkitError, PluginError


class LoRAAdapter(Adapter):
    """LoRA on Linear and Conv2d layers: ``W + scale (alpha / rank) B A``, B starting at zero.

    Convolutions in groups, depthwise ones above all, stay as they are: their kernels are small, and
    B A would mix the groups.

    Args:
        network: The network, which keeps its other weights.
        rank: Rank of B A.
        alpha: LoRA's alpha.
        targets: Endings of the names of the layers to adapt; None: every Linear and every Conv2d
            without groups.
        seed: Seed of the random factor A.

    Raises:
        PluginError: No layer matches ``targets``, or a convolution in groups does.
    """

    def __init__(
        self,
        network: nn.Module,
        rank: int,
        alpha: float,
        targets: Sequence[str] | None,
        seed: int,
    ) -> None:
        self._network = network
        self._alpha_over_rank = alpha / rank
        self._merged_scale: float | None = None
        names = _find_layers(network, targets)
        if not names:
            raise PluginError(_explain_no_layer(network, targets))
        self._layers: dict[str, LoRALayer] = {}
        # The start depends on the seed alone, and the global generator is as it was before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name in names:
                base: Any = network.get_submodule(name)
                self._layers[name] = LoRALayer(base, rank)
                self._replace(name, self._layers[name])
        self.set_scale(self.scale)
        for parameter in self.tensors().values():
            parameter.requires_grad_(True)

    def set_scale(self, scale: float | Tensor) -> None:
        self.scale = scale
        for layer in self._layers.values():
            layer.scaling = scale * self._alpha_over_rank

    @contextmanager
    def merged_at(self, scale: float) -> Iterator[None]:
        """Replace the adapted layers by plain ones, with the weights of that scale.

        No gradient is computed inside the ``with`` block. At scale 0 the layers are the frozen
        ones themselves, else they hold a copy of the adapted weights. A block inside one of the
        same scale costs nothing. Sharded weights are not merged: then it is :meth:`at_scale`.

        Raises:
            DistillkitError: Inside a block of another scale.
        """
        if self._merged_scale is not None:
            if self._merged_scale != scale:
                raise DistillkitError(
                    f"the weights are merged at {self._merged_scale:g}: they cannot be at {scale:g}"
                )
            yield
            return
        with self.at_scale(scale), torch.no_grad():
            if is_sharded(self._network):
                yield
            else:
                with self._plain_layers(scale):
                    yield

    def at_map(self, scale_map: Tensor) -> AbstractContextManager[None]:
        if self._merged_scale is not None:
            # The layers that a map is blended in are not in the network now.
            raise DistillkitError(
                f"the weights are merged at {self._merged_scale:g}: they take no map"
            )
        return super().at_map(scale_map)

    @contextmanager
    def _plain_layers(self, scale: float) -> Iterator[None]:
        bases = {name: layer.base_layer for name, layer in self._layers.items()}
        frozen = {name: base.weight for name, base in bases.items()}
        self._merged_scale = scale
        try:
            for name, layer in self._layers.items():
                # At scale 0 not even a copy is made.
                if scale:
                    merged = frozen[name] + layer.weight_change()
                    bases[name].weight = nn.Parameter(merged, requires_grad=False)
                self._replace(name, bases[name])
            yield
        finally:
            for name, layer in self._layers.items():
                bases[name].weight = frozen[name]
                self._replace(name, layer)
            self._merged_scale = None

    @torch.no_grad()
    def to_full(self) -> FullAdapter:
        """Replace this adapter by an equal :class:`FullAdapter`, ``W + scale dW``, and return it.

        In a graph whose scale is an input that is a product for each weight, not two more layers.
        """
        changes = []
        weights = []
        for name, layer in self._layers.items():
            changes.append(layer.weight_change())
            base = layer.base_layer
            self._replace(name, base)
            weights.append((base, "weight"))
        adapter = FullAdapter(self._network, weights)
        adapter.set_change(changes)
        adapter.set_scale(self.scale)
        return adapter

    def tensors(self) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for name, parameter in self._network.named_parameters():
            if f".{NAME}." in name:
                trained[name] = parameter
        return trained

    def layers(self) -> dict[nn.Module, nn.Module]:
        return {layer: layer.base_layer for layer in self._layers.values()}

    @torch.no_grad()
    def merge(self) -> None:
        for name, layer in self._layers.items():
            base: Any = layer.base_layer
            change = shard_like(base.weight, layer.weight_change())
            merged = base.weight.clone().add_(change)
            # assign: a new tensor in the old one's place
            base.load_state_dict({"weight": merged}, strict=False, assign=True)
            self._replace(name, base)

    def _replace(self, name: str, layer: nn.Module) -> None:
        """Put ``layer`` in the network's place called ``name``."""
        parent, _, attribute = name.rpartition(".")
        setattr(self._network.get_submodule(parent), attribute, layer)


def _find_layers(network: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """List the names of the layers to adapt, which end in one of ``targets``."""
    names: list[str] = []
    for name, module in network.named_modules():
        # The network itself has no name, and no parent in which it could be replaced.
        if not name or not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if not _matches(name, targets):
            continue
        if getattr(module, "groups", 1) == 1:
            names.append(name)
        elif targets is not None:
            raise PluginError(
                f"LoRA adapts no convolution in groups, and {name} of {type(network).__name__} has "
                f'{module.groups}; leave it out of targets, or set adapter = {{ kind = "full" }}'
            )
    return names


def _explain_no_layer(network: nn.Module, targets: Sequence[str] | None) -> str:
    kind = type(network).__name__
    if isinstance(network, nn.Linear | nn.Conv2d):
        reason = f"the network is itself a {kind}, and LoRA adapts layers inside a network"
    elif not _find_layers(network, None):
        reason = f"{kind} has no Linear, nor Conv2d without groups, and LoRA adapts no other"
    else:
        return f"no Linear or Conv2d layer of {kind} ends in one of {list(targets or [])}"
    return f'{reason}; set adapter = {{ kind = "full" }}'


def _matches(name: str, targets: Sequence[str] | None) -> bool:
    if targets is None:
        return True
    return any(f".{name}".endswith(f".{target}") for target in targets)
