"""Checkpoints that spandrel reads, read back before they appear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distillkit import PluginError, WeightsError, atomic_file
from distillkit_spandrel.recognition import Network, recognize

MIN_SIDE = 16
"""Pixels of a side of the image that networks are compared on; more where a network needs it."""
SMOOTH = 4
"""Pixels between the random numbers of that image."""
TOLERANCE = 1e-4
"""How far, of a range of 1, spandrel's image of a written file may be from the expected one."""


@dataclass(frozen=True)
class ExpectedNetwork:
    """What spandrel must find in a checkpoint."""

    architecture: str
    """spandrel's name of it."""
    scale: int
    image: Tensor
    """(1, 3, h, w) in [0, 1]."""
    restored: Tensor
    """What the network makes of the image, clamped to [0, 1]."""


def probe_image(descriptor: Network) -> Tensor:
    """Return a small random image in [0, 1] of a size that a network takes.

    It is as smooth as photographs are: noise drives some networks far out of range (SPAN's images
    reach 45), where the rounding of float32 alone counts as another image.
    """
    needs = descriptor.size_requirements
    side = needs.multiple_of * math.ceil(max(MIN_SIDE, needs.minimum) / needs.multiple_of)
    width = side
    if not needs.square:
        width += needs.multiple_of
    sizes = (math.ceil(side / SMOOTH), math.ceil(width / SMOOTH))
    noise = torch.rand(1, 3, *sizes, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(noise, (side, width), mode="bilinear")


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    expected: ExpectedNetwork,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint; it appears only if spandrel's own loader finds the same network in it.

    Args:
        path: The file, of safetensors.
        tensors: By spandrel's names.
        metadata: Texts for the file; ``architecture`` and ``scale`` are added.
        expected: What spandrel must find.
        dtype: float32 or float16, of the tensors that are no integers.

    Raises:
        PluginError: Another type, another suffix, or metadata that are no texts.
        WeightsError: Spandrel finds another network.
        DiskError: It cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise PluginError(f"{path} - the name of a checkpoint must end in .safetensors")
    if dtype not in (torch.float32, torch.float16):
        raise PluginError(f"{path} - checkpoints are float32 or float16, not {dtype}")
    about = {**metadata, "architecture": expected.architecture, "scale": str(expected.scale)}
    for key, value in about.items():
        if not isinstance(value, str):
            raise PluginError(f"{path} - metadata are texts, and {key} is {value!r}")
    with atomic_file(path) as temporary:
        save_file(_cast(tensors, dtype), temporary, about)
        _read_back(temporary, path, expected)


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    cast = {}
    for name, tensor in tensors.items():
        cast[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return cast


def _read_back(file: Path, path: Path, expected: ExpectedNetwork) -> None:
    """Raise WeightsError unless spandrel finds in a file what it must find."""
    found = recognize(load_file(file), path)
    architecture, scale = found.architecture.id, found.scale
    if (architecture, scale) != (expected.architecture, expected.scale):
        raise WeightsError(
            f"{path} - not written: spandrel reads {architecture} of scale {scale} from it, not "
            f"{expected.architecture} of scale {expected.scale}"
        )
    restored = found(expected.image.clone())
    if restored.shape != expected.restored.shape:
        sizes = f"{tuple(restored.shape)} instead of {tuple(expected.restored.shape)}"
        raise WeightsError(f"{path} - not written: spandrel's image of it is {sizes}")
    error = float((restored - expected.restored).abs().max())
    if not error <= TOLERANCE:
        raise WeightsError(
            f"{path} - not written: the network that spandrel reads from it gives another image, "
            f"up to {error:.2g} of a range of 1 away"
        )
