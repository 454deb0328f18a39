"""Reading the published ResShift and SinSR files."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from distillkit import WeightsError, load_exactly, read_state_dict

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
"""What DDP and ``torch.compile`` put in front of every key."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file, bare or under ``"state_dict"``.

    Its keys lose the prefixes of DDP and ``torch.compile``.

    Raises:
        WeightsError: The file is unreadable or unsafe, or holds no state dict.
    """
    state: object = read_state_dict(path)
    if isinstance(state, dict) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, dict) or not _is_state_dict(state):
        raise WeightsError(
            f"{path} - holds no state dict: "
            "expected tensors by name, bare or under the key 'state_dict'"
        )
    return {_WRAPPERS.sub("", key): tensor for key, tensor in state.items()}


def _is_state_dict(content: dict[object, object]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load a file into a network, key for key.

    Raises:
        WeightsError: As :func:`read_checkpoint`, or the weights are of another architecture.
    """
    load_exactly(network, read_checkpoint(path), path)
