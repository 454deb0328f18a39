"""A network of spandrel's as a student, and its checkpoints for spandrel."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import Condition, PluginError, RestorationModel
from distillkit_spandrel.architectures import construct
from distillkit_spandrel.checkpoint import ExpectedNetwork, probe_image, write_checkpoint
from distillkit_spandrel.options import StudentOptions
from distillkit_spandrel.recognition import Network, read_network, recognize
from distillkit_spandrel.trainable import check_gradient, make_trainable, to_checkpoint

TOLERANCE = 1e-4
"""Two images in [0, 1] count as equal up to this difference, absolute or relative."""


class Student(RestorationModel):
    """A network from image to image that spandrel knows, made trainable.

    Networks of spandrel's take and give images in [0, 1]; this takes and gives [-1, 1].

    Args:
        descriptor: A network of 3 channels. Its modules are replaced where they cannot be trained.

    Raises:
        PluginError: The network draws random numbers, or cannot be trained in evaluation mode.
    """

    def __init__(self, descriptor: Network) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.network = descriptor.model
        self.scale = descriptor.scale
        self.size_multiple = descriptor.size_requirements.multiple_of
        self.takes_batches = True
        image = probe_image(descriptor)
        name = descriptor.architecture.name
        with torch.no_grad():
            original = self._call(self.network, image)
            self._gains = make_trainable(self.network)
            if not _same(self._call(self.network, image), original):
                raise PluginError(f"{name} gives another image each time: it cannot be a student")
            self.takes_batches = self._check_batches(image, original)
        check_gradient(self.network, lambda network: self._call(network, image), name)
        self._names = set(self.network.state_dict())

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """Restore the images of a condition: (B, 3, scale h, scale w), not clamped."""
        images = condition.extra["lq"] * 0.5 + 0.5
        if self.takes_batches:
            restored = self._call(self.network, images)
        else:
            restored = torch.cat([self._call(self.network, image) for image in images.split(1)])
        return restored * 2 - 1

    def save_checkpoint(
        self, path: Path, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the network as a checkpoint that spandrel reads.

        The file appears only if spandrel's own loader finds this architecture and scale in it, and
        gives the student's image.

        Args:
            path: The file, of safetensors.
            metadata: Texts for the file; ``architecture`` and ``scale`` are added.
            dtype: float32 or float16.

        Raises:
            PluginError: An adapter is on the network.
            WeightsError: Spandrel reads another network from it.
            DiskError: It cannot be written.
        """
        if set(self.network.state_dict()) != self._names:
            raise PluginError(
                f"{path} - not written: an adapter is on the network; merge it at a tradeoff first"
            )
        # Rounded as the file's tensors are, so that the two images must be the same.
        rounded = copy.deepcopy(self.network).cpu().to(dtype).float()
        image = probe_image(self.descriptor)
        with torch.no_grad():
            restored = self._call(rounded, image).clamp(0, 1)
        architecture = self.descriptor.architecture.id
        expected = ExpectedNetwork(architecture, self.scale, image, restored)
        write_checkpoint(path, to_checkpoint(rounded, self._gains), metadata, expected, dtype)

    def _call(self, network: nn.Module, images: Tensor) -> Tensor:
        """Restore images in [0, 1], as spandrel does but with gradient and not clamped."""
        padded = _pad(images, self.descriptor)
        if padded is images:
            # Some networks write into what they are given.
            padded = images.clone()
        restored = self.descriptor._call_fn(network, padded)
        if padded.shape == images.shape:
            return restored
        height, width = images.shape[-2:]
        return restored[..., : height * self.scale, : width * self.scale]

    def _check_batches(self, image: Tensor, alone: Tensor) -> bool:
        """Whether the network restores a batch as it does one image; spandrel promises only one."""
        both = torch.cat([image.flip(3), image])
        try:
            return _same(self._call(self.network, both)[1:], alone)
        # A network that takes one image only may raise anything.
        except Exception:
            return False


def build(options: StudentOptions) -> Student:
    """Build the student that a recipe names, downloading its checkpoint where it is missing."""
    # Modules draw weights when they are constructed, also those that are loaded afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if options.architecture is None:
            (file,) = options.weight_files()
            return Student(read_network(file.fetch(), (3,), options.scale))
        network = construct(options.architecture, options.parameters, options.scale, options.seed)
        return Student(_recognize_own(network, options.architecture, options.scale))


def _recognize_own(network: nn.Module, name: str, scale: int | None) -> Network:
    """Let spandrel recognize a network that was just constructed.

    A checkpoint holds tensors alone: what else was set would be lost in it.

    Raises:
        WeightsError: As :func:`recognize`.
        PluginError: The network restores no image, or spandrel makes another network of the same
            tensors.
    """
    found = recognize(network.state_dict(), f'architecture "{name}"', scale=scale)
    image = probe_image(found)
    try:
        with torch.no_grad():
            own = found._call_fn(network, image.clone())
            other = found._call_fn(found.model, image.clone())
    # Sizes that do not fit each other show only here, in any way.
    except Exception as e:
        raise PluginError(
            f"{name} with these parameters cannot restore an image: {shorten(str(e), 200)}"
        ) from e
    if not _same(own, other):
        raise PluginError(
            f"{name} with these parameters cannot be told from its tensors, so its checkpoints "
            f"would open as another network: {_list_differences(network, found.model)}"
        )
    return found


def _list_differences(network: nn.Module, found: nn.Module) -> str:
    given: Any = getattr(network, "hyperparameters", {})
    read: Any = getattr(found, "hyperparameters", {})
    differences = []
    for key, value in read.items():
        if given.get(key) != value:
            differences.append(f"{key} is {given.get(key)!r}, read back as {value!r}")
    return "; ".join(differences) or "it gives another image"


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def _pad(images: Tensor, descriptor: Network) -> Tensor:
    """Pad to a network's least size or to a square; the engine has padded to its multiple."""
    needs = descriptor.size_requirements
    height, width = images.shape[-2:]
    if min(height, width) >= needs.minimum and not needs.square:
        return images
    right, below = needs.get_padding(width, height)
    # Reflection takes less than a side; the rest repeats the border.
    reflected = (0, min(right, width - 1), 0, min(below, height - 1))
    images = nn.functional.pad(images, reflected, "reflect")
    return nn.functional.pad(
        images, (0, right - reflected[1], 0, below - reflected[3]), "replicate"
    )
