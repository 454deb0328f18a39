"""Reading Stable Diffusion 2.1-base in diffusers' file layout, in its old and new key styles, and OSEDiff's checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distillkit import WeightsError, load_exactly, read_state_dict

# Autoencoders saved before diffusers 0.12 name the projections of their attention so.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_KEY = re.compile(r"(?<=\.mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat file of tensors, in float32.

    Raises:
        WeightsError: not readable, unsafe, or not a flat dictionary of tensors.
    """
    return _tensors(read_state_dict(path), path)


def load_unet(network: nn.Module, path: Path) -> None:
    """Load a UNet's file.

    Raises:
        WeightsError: not a weight file, or one of another architecture.
    """
    load_exactly(network, read_tensors(path), path)


def load_vae(network: nn.Module, path: Path) -> None:
    """Load an autoencoder's file, in either key style; errors as :func:`load_unet`."""
    load_exactly(network, renamed_vae(read_tensors(path)), path)


def load_text(network: nn.Module, path: Path) -> None:
    """Load a text encoder's file, with or without the ``text_model.`` prefix; errors as :func:`load_unet`."""
    load_exactly(network, renamed_text(read_tensors(path), network), path)


def renamed_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors under diffusers' present names."""
    return {_OLD_KEY.sub(lambda m: _OLD_ATTENTION[m[0]], k): v for k, v in state.items()}


def renamed_text(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A CLIP text encoder's tensors under the names ``network`` uses: transformers 5 dropped the prefix, files have it."""
    prefix = "text_model." if any(k.startswith("text_model.") for k in network.state_dict()) else ""
    bare = {k.removeprefix("text_model."): v for k, v in state.items()}
    bare.pop("embeddings.position_ids", None)  # 0, 1, 2, …, in old files
    return {prefix + k: v for k, v in bare.items()}


class OSEDiffCheckpoint(NamedTuple):
    """What an ``osediff.pkl`` holds that matters: the tensors of both networks' adapters, and their ranks."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    rank_unet: int
    rank_vae: int


def read_osediff(path: Path) -> OSEDiffCheckpoint:
    """Read ``osediff.pkl`` without running anything in it.

    Raises:
        WeightsError: not readable, unsafe, or not an OSEDiff checkpoint.
    """
    content: dict[str, Any] = read_state_dict(path)
    wanted = ("state_dict_unet", "state_dict_vae", "rank_unet", "rank_vae")
    missing = [k for k in wanted if k not in content] if isinstance(content, dict) else list(wanted)
    if missing:
        raise WeightsError(f"{path} - not an OSEDiff checkpoint: it has no {', '.join(missing)}")
    unet, vae, rank_unet, rank_vae = (content[k] for k in wanted)
    if not all(isinstance(r, int) and r > 0 for r in (rank_unet, rank_vae)):
        raise WeightsError(
            f"{path} - not an OSEDiff checkpoint: its ranks are {rank_unet!r} and {rank_vae!r}"
        )
    return OSEDiffCheckpoint(_tensors(unet, path), _tensors(vae, path), rank_unet, rank_vae)


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise WeightsError(f"{path} - not a dictionary of tensors")
    return {k: v.float() if v.is_floating_point() else v for k, v in content.items()}
