"""Reading the files of Stable Diffusion 2.1-base and OSEDiff.

The base model is in diffusers' file layout, in its old or new key style.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distillkit import WeightsError, load_exactly, read_state_dict, read_tensors

OLD_ATTENTION_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
"""Attention layers of autoencoders saved before diffusers 0.12, and their present names."""

_OLD_ATTENTION = re.compile(
    r"(?<=\.mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)",
)
_TEXT_PREFIX = "text_model."


def read_float32(path: Path) -> dict[str, Tensor]:
    """Read a flat file of tensors, in float32.

    Raises:
        WeightsError: The file is not readable, unsafe, or no flat dictionary of tensors.
    """
    return _to_float32(read_tensors(path))


def load_unet(network: nn.Module, path: Path) -> None:
    """Load a UNet's file.

    Raises:
        WeightsError: It is no weight file, or one of another architecture.
    """
    load_exactly(network, read_float32(path), path)


def load_vae(network: nn.Module, path: Path) -> None:
    """Load an autoencoder's file, in either key style.

    Raises:
        WeightsError: It is no weight file, or one of another architecture.
    """
    load_exactly(network, rename_vae(read_float32(path)), path)


def load_text(network: nn.Module, path: Path) -> None:
    """Load a text encoder's file, with or without the prefix ``text_model.``.

    Raises:
        WeightsError: It is no weight file, or one of another architecture.
    """
    load_exactly(network, rename_text(read_float32(path), network), path)


def rename_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give an autoencoder's tensors diffusers' present names."""

    def present_name(old: re.Match[str]) -> str:
        return OLD_ATTENTION_NAMES[old[0]]

    return {_OLD_ATTENTION.sub(present_name, name): tensor for name, tensor in state.items()}


def rename_text(
    state: Mapping[str, Tensor],
    network: nn.Module,
) -> dict[str, Tensor]:
    """Give a CLIP text encoder's tensors the names that a network uses.

    Files have the prefix ``text_model.``, which transformers 5 dropped.
    """
    names = {name.removeprefix(_TEXT_PREFIX): tensor for name, tensor in state.items()}
    names.pop("embeddings.position_ids", None)  # 0, 1, 2, ..., in old files
    if not any(name.startswith(_TEXT_PREFIX) for name in network.state_dict()):
        return names
    return {_TEXT_PREFIX + name: tensor for name, tensor in names.items()}


class OSEDiffCheckpoint(NamedTuple):
    """The tensors of both networks' adapters in an ``osediff.pkl``, and their ranks."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    rank_unet: int
    rank_vae: int


CHECKPOINT_KEYS = ("state_dict_unet", "state_dict_vae", "rank_unet", "rank_vae")


def read_osediff(path: Path) -> OSEDiffCheckpoint:
    """Read ``osediff.pkl`` without running anything in it.

    Raises:
        WeightsError: The file is not readable, unsafe, or no OSEDiff checkpoint.
    """
    content: Any = read_state_dict(path)
    if not isinstance(content, dict):
        content = {}
    missing = [key for key in CHECKPOINT_KEYS if key not in content]
    if missing:
        raise WeightsError(f"{path} - not an OSEDiff checkpoint: it has no {', '.join(missing)}")
    rank_unet = content["rank_unet"]
    rank_vae = content["rank_vae"]
    if not _is_rank(rank_unet) or not _is_rank(rank_vae):
        raise WeightsError(
            f"{path} - not an OSEDiff checkpoint: its ranks are {rank_unet!r} and {rank_vae!r}"
        )
    return OSEDiffCheckpoint(
        unet=_to_float32(read_tensors(path, "state_dict_unet")),
        vae=_to_float32(read_tensors(path, "state_dict_vae")),
        rank_unet=rank_unet,
        rank_vae=rank_vae,
    )


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _to_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    float32 = {}
    for name, tensor in tensors.items():
        float32[name] = tensor.float() if tensor.is_floating_point() else tensor
    return float32
