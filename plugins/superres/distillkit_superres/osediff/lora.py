"""OSEDiff's low-rank adapters: which layers they sit on, under which names they are stored, and merging them into the base weights.

OSEDiff (Wu et al. 2024) trains LoRA on the UNet (adapters ``default_encoder``, ``default_decoder`` and ``default_others``) and on
the VAE's encoder (``default_encoder``), and the whole of the UNet's ``conv_in``, stored as ``conv_in.base_layer``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distillkit import WeightsError

ALPHA = 8.0
"""peft's default ``lora_alpha``, with which OSEDiff was trained; its checkpoint does not say. At its rank 4 the factor is 2."""

_UNET_LAYER = re.compile(
    r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2"
    r"|conv1|conv2|conv_shortcut|(down|up)samplers\.0\.conv|conv_in|conv_out)$"
)
_UNET_ADAPTERS = {
    "conv_in": "default_encoder",
    "down_blocks": "default_encoder",
    "mid_block": "default_others",
    "up_blocks": "default_decoder",
    "conv_out": "default_decoder",
}
_VAE_LAYER = re.compile(
    r"^(quant_conv|encoder\..*(conv_in|conv_out|conv1|conv2|conv_shortcut|downsamplers\.0\.conv|to_q|to_k|to_v|to_out\.0))$"
)

Shapes = dict[str, tuple[int, ...]]


def unet_layout(base: Mapping[str, Tensor], rank: int) -> Shapes:
    """Keys and shapes of ``state_dict_unet`` in an OSEDiff checkpoint over the UNet with state dict ``base``."""
    layers = [m for m in _modules(base) if _UNET_LAYER.search(m)]
    layout = {
        f"conv_in.base_layer.{part}": tuple(base[f"conv_in.{part}"].shape)
        for part in ("weight", "bias")
    }
    for layer in layers:
        layout |= _pair(layer, _UNET_ADAPTERS[layer.split(".")[0]], base[f"{layer}.weight"], rank)
    return layout


def vae_layout(base: Mapping[str, Tensor], rank: int) -> Shapes:
    """Keys and shapes of ``state_dict_vae`` in an OSEDiff checkpoint over the autoencoder with state dict ``base``."""
    layout: Shapes = {}
    for layer in (m for m in _modules(base) if _VAE_LAYER.match(m)):
        layout |= _pair(layer, "default_encoder", base[f"{layer}.weight"], rank)
    return layout


@torch.no_grad()
def merge(
    network: nn.Module, lora: Mapping[str, Tensor], layout: Shapes, alpha: float, source: object
) -> None:
    """Fold adapters into ``network``, ``W + (alpha / rank) B A``, in place; retrained layers replace its own first.

    Args:
        lora: the adapters' tensors. layout: the keys and shapes they have to have. source: named in errors.

    Raises:
        WeightsError: ``lora`` has other keys or shapes than ``layout``.
    """
    _check(lora, layout, source)
    for key, value in lora.items():
        if ".base_layer." in key:
            network.get_parameter(key.replace(".base_layer.", ".")).copy_(value)
    for key, a in lora.items():
        if ".lora_A." in key:
            b = lora[key.replace(".lora_A.", ".lora_B.")]
            network.get_parameter(key.split(".lora_A.")[0] + ".weight").add_(
                _product(b, a), alpha=alpha / len(a)
            )


def _product(b: Tensor, a: Tensor) -> Tensor:
    """``B A``: of matrices, or of a 1x1 convolution ``b`` after a convolution ``a``."""
    return torch.einsum("or,r...->o...", b.flatten(1), a)


def _modules(base: Mapping[str, Tensor]) -> list[str]:
    return [
        k.removesuffix(".weight")
        for k, v in base.items()
        if k.endswith(".weight") and v.ndim in (2, 4)
    ]


def _pair(layer: str, adapter: str, weight: Tensor, rank: int) -> Shapes:
    out_features, *rest = weight.shape
    a, b = (rank, *rest), (out_features, rank, *([1] * (len(rest) - 1)))
    return {f"{layer}.lora_A.{adapter}.weight": a, f"{layer}.lora_B.{adapter}.weight": b}


def _check(lora: Mapping[str, Tensor], layout: Shapes, source: object) -> None:
    problems = [f"missing {k}" for k in layout.keys() - lora.keys()] + [
        f"unexpected {k}" for k in lora.keys() - layout.keys()
    ]
    for key in layout.keys() & lora.keys():
        if tuple(lora[key].shape) != layout[key]:
            problems.append(f"{key} is {tuple(lora[key].shape)}, expected {layout[key]}")
    if problems:
        shown = "; ".join(sorted(problems)[:5]) + (
            f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        )
        raise WeightsError(f"{source} - adapters of another network than the base's: {shown}")
