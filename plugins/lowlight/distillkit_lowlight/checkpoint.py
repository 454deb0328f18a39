"""Flat dictionaries of tensors out of the containers that training programs save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit import WeightsError, read_state_dict


def read_tensors(path: Path, *keys: str) -> dict[str, Tensor]:
    """Read the named tensors of a weight file.

    The ``module.`` that distributed training puts in front of every name is taken off.

    Args:
        path: The weight file.
        *keys: Keys to descend by where the file is a container; a flat file is taken as it is.

    Raises:
        WeightsError: There is no such file, it is damaged or unsafe, or it has no dictionary of
            tensors at that place.
    """
    state: Any = read_state_dict(path)
    for key in keys:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not _holds_tensors(state):
        place = " / ".join(keys) or "its top level"
        raise WeightsError(
            f"{path} - no dictionary of tensors at {place}; "
            "is it the network's file and not the optimizer's?"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _holds_tensors(state: object) -> bool:
    if not isinstance(state, Mapping) or not state:
        return False
    return all(isinstance(value, Tensor) for value in state.values())
