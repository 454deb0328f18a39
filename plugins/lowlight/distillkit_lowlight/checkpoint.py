"""Flat dictionaries of tensors out of the containers that training programs save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit import WeightsError, read_state_dict


def read_tensors(path: Path, *within: str) -> dict[str, Tensor]:
    """The named tensors of a weight file, without the ``module.`` that distributed training puts in front of every name.

    Args:
        within: keys to descend by where the file is a container; a file that is already flat is taken as it is.

    Raises:
        WeightsError: no such file, damaged, unsafe, or without a dictionary of tensors in that place.
    """
    state: Any = read_state_dict(path)
    for key in within:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
    ):
        place = " / ".join(within) or "its top level"
        raise WeightsError(
            f"{path} - no dictionary of tensors at {place}; is it the network's file and not the optimizer's?"
        )
    return {str(name).removeprefix("module."): value for name, value in state.items()}
