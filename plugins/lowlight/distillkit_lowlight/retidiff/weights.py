"""Reading Reti-Diff's published files, which hold many layers under several names."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from distillkit import WeightsError, load_exactly
from distillkit_lowlight.checkpoint import read_tensors
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff, StageOneExtractors
from distillkit_lowlight.schedule import TABLES

_DIFFUSION = re.compile(r"^(img|rex)_diffusion\.(model|condition)\.")
_SHARED = re.compile(r"^(rex_condition|E_rex)\.E_I\.(\d+\.body\.)")


def canonical(name: str) -> str:
    """The one name, of those a tensor is saved under, that is used here.

    The diffusion wrappers hold the denoisers and the extractors a second time, and the branches of a retinex extractor share their
    residual blocks: ``rex_diffusion.condition.E_I.2.body.0.bias`` is ``rex_condition.E_R.2.body.0.bias``.
    """
    name = _DIFFUSION.sub(
        lambda m: f"{m[1]}_{'denoise' if m[2] == 'model' else 'condition'}.", name
    )
    return _SHARED.sub(r"\1.E_R.\2", name)


def unique_tensors(state: dict[str, Tensor], source: object) -> dict[str, Tensor]:
    """``state`` under canonical names, without the schedule's tables.

    Raises:
        WeightsError: two names of one tensor have different values.
    """
    unique: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix, _, rest = name.partition(".")
        if prefix in ("img_diffusion", "rex_diffusion") and rest in TABLES:
            continue
        held = unique.setdefault(canonical(name), value)
        if held.shape != value.shape or not torch.equal(held, value):
            raise WeightsError(
                f"{source} - {name} and {canonical(name)} name one tensor but differ; the file is damaged"
            )
    return unique


def load_retidiff(network: RetiDiff, path: Path) -> None:
    """Fill ``network`` from a published file (``params_ema`` of its container, or a flat copy of that).

    ``G.decom.*``, the head of training, may be in the file or not; it is read where the network has it.

    Raises:
        WeightsError: missing, damaged, unsafe, self-contradictory, or of another architecture.
    """
    unique = unique_tensors(read_tensors(path, "params_ema"), path)
    if not hasattr(network.G, "decom"):
        unique = {name: value for name, value in unique.items() if not name.startswith("G.decom.")}
    load_exactly(network, _with_aliases(unique, network.state_dict()), path)


def load_stage_one(extractors: StageOneExtractors, path: Path) -> None:
    """Fill the extractors from a stage-1 file; its transformer is passed over.

    Raises:
        WeightsError: as :func:`load_retidiff`.
    """
    unique = unique_tensors(read_tensors(path, "params_ema"), path)
    unique = {name: value for name, value in unique.items() if not name.startswith("G.")}
    load_exactly(extractors, _with_aliases(unique, extractors.state_dict()), path)


def load_decomposition(network: Decomposition, path: Path) -> None:
    """Fill ``network`` from a published file: flat, or the ``state_dict`` / ``model_R`` of a training checkpoint.

    Raises:
        WeightsError: missing, damaged, unsafe, or of another architecture.
    """
    load_exactly(network, read_tensors(path, "state_dict", "model_R"), path)


def _with_aliases(unique: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """``unique`` and, of ``wanted``'s names, those that are second names of something in it."""
    return unique | {name: unique[canonical(name)] for name in wanted if canonical(name) in unique}
