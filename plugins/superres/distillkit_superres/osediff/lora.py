"""OSEDiff's low-rank adapters: their layers and names, and merging them into the base weights.

OSEDiff (Wu et al. 2024) trains LoRA on the UNet (adapters ``default_encoder``, ``default_decoder``
and ``default_others``) and on the VAE's encoder (``default_encoder``). It also trains the UNet's
full ``conv_in``, stored as ``conv_in.base_layer``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distillkit import WeightsError

ALPHA = 8.0
"""peft's default ``lora_alpha``, with which OSEDiff was trained.

Its checkpoint does not say. At its rank 4 the factor is 2."""

UNET_LAYER = re.compile(
    r"(to_q|to_k|to_v|to_out\.0"
    r"|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv1|conv2|conv_shortcut"
    r"|downsamplers\.0\.conv|upsamplers\.0\.conv"
    r"|conv_in|conv_out)$"
)
"""The layers of the UNet with an adapter, by the end of their names."""

UNET_ADAPTERS = {
    "conv_in": "default_encoder",
    "down_blocks": "default_encoder",
    "mid_block": "default_others",
    "up_blocks": "default_decoder",
    "conv_out": "default_decoder",
}
"""The adapter of a UNet's layer, by the start of its name."""

VAE_LAYER = re.compile(
    r"^(quant_conv"
    r"|encoder\..*(conv_in|conv_out|conv1|conv2|conv_shortcut"
    r"|downsamplers\.0\.conv"
    r"|to_q|to_k|to_v|to_out\.0))$"
)
"""The layers of the autoencoder with an adapter."""

Shapes = dict[str, tuple[int, ...]]


def unet_layout(base: Mapping[str, Tensor], rank: int) -> Shapes:
    """List keys and shapes of ``state_dict_unet`` in an OSEDiff checkpoint.

    Args:
        base: State dict of the UNet.
        rank: Rank of the adapters.
    """
    layout: Shapes = {}
    for name in ("weight", "bias"):
        layout[f"conv_in.base_layer.{name}"] = tuple(base[f"conv_in.{name}"].shape)
    for layer in _layers(base):
        if UNET_LAYER.search(layer):
            adapter = UNET_ADAPTERS[layer.partition(".")[0]]
            layout |= _adapter_shapes(layer, adapter, base[f"{layer}.weight"], rank)
    return layout


def vae_layout(base: Mapping[str, Tensor], rank: int) -> Shapes:
    """List keys and shapes of ``state_dict_vae`` in an OSEDiff checkpoint.

    Args:
        base: State dict of the autoencoder.
        rank: Rank of the adapters.
    """
    layout: Shapes = {}
    for layer in _layers(base):
        if VAE_LAYER.match(layer):
            layout |= _adapter_shapes(layer, "default_encoder", base[f"{layer}.weight"], rank)
    return layout


@torch.no_grad()
def merge(
    network: nn.Module,
    lora: Mapping[str, Tensor],
    layout: Shapes,
    alpha: float,
    source: object,
) -> None:
    """Merge adapters into a network in place, ``W + (alpha / rank) B A``.

    Retrained layers replace its own first.

    Args:
        network: The network with the base weights.
        lora: The adapters' tensors.
        layout: The keys and shapes they have to have.
        alpha: ``lora_alpha`` of the adapters.
        source: Where they come from, for the error.

    Raises:
        WeightsError: ``lora`` has other keys or shapes than ``layout``.
    """
    _check_layout(lora, layout, source)
    # First the retrained layers, to which adapters are added, too.
    for key, value in lora.items():
        if ".base_layer." in key:
            retrained = network.get_parameter(key.replace(".base_layer.", "."))
            retrained.copy_(value)
    for key, a in lora.items():
        layer, found, adapter = key.partition(".lora_A.")
        if found:
            b = lora[f"{layer}.lora_B.{adapter}"]
            rank = len(a)
            weight = network.get_parameter(f"{layer}.weight")
            weight.add_(_product(b, a), alpha=alpha / rank)


def _product(b: Tensor, a: Tensor) -> Tensor:
    """Multiply ``B A``: matrices, or a 1x1 convolution ``b`` after a convolution ``a``."""
    return torch.einsum("or,r...->o...", b.flatten(1), a)


def _layers(base: Mapping[str, Tensor]) -> list[str]:
    """List the linear and convolution layers of a state dict."""
    layers = []
    for name, tensor in base.items():
        if name.endswith(".weight") and tensor.ndim in (2, 4):
            layers.append(name.removesuffix(".weight"))
    return layers


def _adapter_shapes(
    layer: str,
    adapter: str,
    weight: Tensor,
    rank: int,
) -> Shapes:
    """Give the shapes of an adapter's two matrices for a layer."""
    out_features, *rest = weight.shape
    kernel = [1] * (len(rest) - 1)
    return {
        f"{layer}.lora_A.{adapter}.weight": (rank, *rest),
        f"{layer}.lora_B.{adapter}.weight": (out_features, rank, *kernel),
    }


def _check_layout(
    lora: Mapping[str, Tensor],
    layout: Shapes,
    source: object,
) -> None:
    problems = [f"missing {key}" for key in layout.keys() - lora.keys()]
    problems += [f"unexpected {key}" for key in lora.keys() - layout.keys()]
    for key in layout.keys() & lora.keys():
        shape = tuple(lora[key].shape)
        if shape != layout[key]:
            problems.append(f"{key} is {shape}, expected {layout[key]}")
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        hidden = len(problems) - 5
        if hidden > 0:
            shown += f"; and {hidden} more"
        raise WeightsError(f"{source} - adapters of another network than the base's: {shown}")
