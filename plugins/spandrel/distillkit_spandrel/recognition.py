"""From named tensors to a network: spandrel recognizes it, and what restores no images is refused.

Files are read by distillkit's own reader as plain tensors. spandrel's own, which also opens
TorchScript, is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import TypeAlias

import spandrel
from spandrel import (
    ImageModelDescriptor,
    ModelDescriptor,
    ModelLoader,
    UnsupportedModelError,
    canonicalize_state_dict,
)
from torch import Tensor, nn

from distillkit import WeightsError, read_state_dict
from distillkit_spandrel.trainable import expand_merged

Network: TypeAlias = ImageModelDescriptor[nn.Module]
"""A network from image to image, as spandrel describes it."""


def read_network(path: Path, channels: Collection[int], scale: int | None) -> Network:
    """Read a checkpoint, as :func:`recognize` does.

    Args:
        path: The file.
        channels: How many channels an image of the network may have.
        scale: The scale that it must have; None: any.

    Raises:
        WeightsError: Also where the file is not a plain file of tensors.
    """
    state = read_state_dict(path)
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise WeightsError(f"{path} - holds a {kind}, not the named tensors of a network")
    return recognize(state, path, channels, scale)


def recognize(
    state: Mapping[str, Tensor],
    source: object,
    channels: Collection[int] = (3,),
    scale: int | None = None,
) -> Network:
    """Let spandrel recognize a network from its tensors.

    It is in float32, on the CPU and in evaluation mode.

    Args:
        state: The tensors.
        source: What errors call them.
        channels: How many channels an image of the network may have.
        scale: The scale that it must have; None: any.

    Raises:
        WeightsError: No architecture that spandrel knows, no restorer of whole single images,
            other channels, or another scale.
    """
    descriptor = _load(state, source)
    name = f"{source} - {descriptor.architecture.name} for {descriptor.purpose}"
    is_restorer = descriptor.purpose in ("SR", "Restoration")
    if not isinstance(descriptor, ImageModelDescriptor) or not is_restorer:
        raise WeightsError(
            f"{name}: only restorers of whole single images can be used (no faces, no masks)"
        )
    inputs, outputs = descriptor.input_channels, descriptor.output_channels
    if inputs != outputs or inputs not in channels:
        allowed = ", or ".join(f"{count} and {count}" for count in channels)
        raise WeightsError(
            f"{name}: takes {inputs} channels and gives {outputs}; only {allowed}, can be used"
        )
    if scale not in (None, descriptor.scale):
        raise WeightsError(
            f"{name}: its scale is {descriptor.scale}, not {scale} as the recipe has it"
        )
    return descriptor.float().eval()


def _install_extra_architectures() -> None:
    """Make architectures with licenses of their own known, where a user has installed them."""
    if find_spec("spandrel_extra_arches"):
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)


def _load(state: Mapping[str, Tensor], source: object) -> ModelDescriptor:
    _install_extra_architectures()
    try:
        tensors = canonicalize_state_dict(dict(state))
        return ModelLoader().load_from_state_dict(expand_merged(tensors))
    except UnsupportedModelError as e:
        raise WeightsError(
            f"{source} - spandrel {spandrel.__version__} knows no architecture of such tensors; "
            "spandrel_extra_arches, if installed, adds some"
        ) from e
    # A few names make an architecture; what is wrong with the other tensors may raise anything.
    except Exception as e:
        reason = f"{type(e).__name__}: {shorten(str(e), 200)}"
        raise WeightsError(f"{source} - not a checkpoint that spandrel can load: {reason}") from e
