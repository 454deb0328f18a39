"""Reading Reti-Diff's published files, which hold many layers under several names."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from distillkit import WeightsError, load_exactly, read_tensors
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff, StageOneExtractors
from distillkit_lowlight.schedule import TABLE_NAMES

_DIFFUSION_MODEL = re.compile(r"^(img|rex)_diffusion\.model\.")
_DIFFUSION_CONDITION = re.compile(r"^(img|rex)_diffusion\.condition\.")
_SHARED_BLOCK = re.compile(r"^(rex_condition|E_rex)\.E_I\.(\d+\.body\.)")


def canonical_name(name: str) -> str:
    """Choose the one name that is used here for a tensor with several.

    The diffusion wrappers hold the denoisers and the extractors a second time, and the branches of
    a retinex extractor share their residual blocks:
    ``rex_diffusion.condition.E_I.2.body.0.bias`` is ``rex_condition.E_R.2.body.0.bias``.
    """
    name = _DIFFUSION_MODEL.sub(r"\1_denoise.", name)
    name = _DIFFUSION_CONDITION.sub(r"\1_condition.", name)
    return _SHARED_BLOCK.sub(r"\1.E_R.\2", name)


def unique_tensors(state: dict[str, Tensor], source: object) -> dict[str, Tensor]:
    """Keep one name of each tensor, and leave out the schedule's tables.

    Args:
        state: Tensors by name.
        source: Where they come from, for the error.

    Returns:
        The tensors by canonical name.

    Raises:
        WeightsError: Two names of one tensor have different values.
    """
    unique: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _is_table(name):
            continue
        # Copies are compared rather than dropped: if they differ, it is unclear which one counts.
        canonical = canonical_name(name)
        first = unique.setdefault(canonical, tensor)
        if first.shape != tensor.shape or not torch.equal(first, tensor):
            raise WeightsError(
                f"{source} - {name} and {canonical} name one tensor but differ; the file is damaged"
            )
    return unique


def _is_table(name: str) -> bool:
    prefix, _, table = name.partition(".")
    return prefix in ("img_diffusion", "rex_diffusion") and table in TABLE_NAMES


def load_retidiff(network: RetiDiff, path: Path) -> None:
    """Fill a network from a published file.

    ``G.decom.*``, the head that training uses, may be in the file or not; it is read where the
    network has it.

    Args:
        network: The network to fill.
        path: A published file, whose container has the weights under ``params_ema``, or a flat copy
            of those.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, self-contradictory, or of another
            architecture.
    """
    weights = unique_tensors(read_tensors(path, "params_ema"), path)
    if not hasattr(network.G, "decom"):
        weights = _drop(weights, "G.decom.")
    load_exactly(network, _with_aliases(weights, network.state_dict()), path)


def load_stage_one(extractors: StageOneExtractors, path: Path) -> None:
    """Fill the extractors from a file of stage 1; its transformer is not read.

    Raises:
        WeightsError: As :func:`load_retidiff`.
    """
    weights = unique_tensors(read_tensors(path, "params_ema"), path)
    weights = _drop(weights, "G.")
    load_exactly(extractors, _with_aliases(weights, extractors.state_dict()), path)


def load_decomposition(network: Decomposition, path: Path) -> None:
    """Fill a decomposition network from a published file.

    Args:
        network: The network to fill.
        path: A flat file, or a training checkpoint with the weights under ``state_dict`` /
            ``model_R``.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, or of another architecture.
    """
    load_exactly(network, read_tensors(path, "state_dict", "model_R"), path)


def _drop(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}


def _with_aliases(
    unique: dict[str, Tensor],
    wanted: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Add the second names that a network's state dictionary has for shared tensors."""
    weights = dict(unique)
    for name in wanted:
        canonical = canonical_name(name)
        if canonical in unique:
            weights[name] = unique[canonical]
    return weights
