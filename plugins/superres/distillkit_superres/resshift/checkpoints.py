"""Reading the published ResShift and SinSR files."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from distillkit import WeightsError, load_exactly, read_state_dict

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in ``path``: bare or under ``"state_dict"``, its keys without the prefixes of DDP and ``torch.compile``.

    Raises:
        WeightsError: unreadable, unsafe, or no state dict.
    """
    state: object = read_state_dict(path)
    if isinstance(state, dict) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(
            f"{path} - holds no state dict: expected tensors by name, bare or under the key 'state_dict'"
        )
    return {_WRAPPERS.sub("", key): value for key, value in state.items()}


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load ``path`` into ``network``, key for key.

    Raises:
        WeightsError: as :func:`read_checkpoint`, or weights of another architecture.
    """
    load_exactly(network, read_checkpoint(path), path)
