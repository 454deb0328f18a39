"""Join checkpoints side by side into a wider network, whose image is the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distillkit import WeightsError
from distillkit_spandrel.checkpoint import ExpectedNetwork, probe_image, write_checkpoint
from distillkit_spandrel.recognition import Network, read_network, recognize
from distillkit_spandrel.trainable import make_trainable

IMAGE_CHANNELS = 3
ARCHITECTURES = ("Compact", "SPAN")
"""Those in which features mix in convolutions alone, whose weights can keep them apart."""


def join_networks(files: Sequence[Path], out: Path) -> str:
    """Join checkpoints of one architecture and one size: all SPAN, or all Compact.

    The joined network has the features of all of them. Those of each network are computed from
    that network's own alone, and the last layer gives the mean of the images, before they are
    clamped to their range. The weights from one network to another are 0, for training to fill.

    Args:
        files: The checkpoints, at least two.
        out: The checkpoint to write, of safetensors; it appears only if spandrel finds a network
            in it that gives that mean.

    Returns:
        What was written.

    Raises:
        WeightsError: A file is damaged, or holds another architecture or another size of it.
        PluginError: ``out`` has another suffix.
        DiskError: ``out`` cannot be written.
    """
    parts = [_read_part(file) for file in files]
    for part in parts:
        _check_alike(parts[0], part)
    joined = recognize(_join(parts), out)
    mean = torch.stack([part.restored for part in parts]).mean(0).clamp(0, 1)
    expected = ExpectedNetwork(joined.architecture.id, joined.scale, parts[0].image, mean)
    about = {"joined from": ", ".join(file.name for file in files)}
    write_checkpoint(out, joined.model.state_dict(), about, expected)
    return (
        f"{out}: a {joined.architecture.id} as wide as {len(files)} networks; "
        "it gives the mean of their images"
    )


@dataclass(frozen=True)
class _Part:
    """One of the networks that are joined."""

    file: Path
    architecture: str
    tensors: dict[str, Tensor]
    """As in a checkpoint; of the convolutions that spandrel merges, the merged ones alone."""
    last_layer: str
    """The name of the convolution whose output becomes the image."""
    image: Tensor
    restored: Tensor
    """What the network makes of the image, not clamped."""


def _read_part(file: Path) -> _Part:
    network = read_network(file, (IMAGE_CHANNELS,), None)
    architecture = network.architecture.id
    if architecture not in ARCHITECTURES:
        allowed = " and ".join(ARCHITECTURES)
        raise WeightsError(f"{file} - a {architecture}; only networks of {allowed} can be joined")
    image = probe_image(network)
    with torch.no_grad():
        restored = network._call_fn(network.model, image.clone())
    *_, last_layer = (
        name for name, module in network.model.named_modules() if isinstance(module, nn.Conv2d)
    )
    return _Part(file, architecture, _merged_tensors(network), last_layer, image, restored)


def _merged_tensors(network: Network) -> dict[str, Tensor]:
    merged = make_trainable(network.model)
    tensors = {}
    for name, tensor in network.model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        tensors[f"{layer}.eval_conv.{kind}" if layer in merged else name] = tensor
    return tensors


def _check_alike(first: _Part, other: _Part) -> None:
    shapes, others = (
        {name: tensor.shape for name, tensor in part.tensors.items()} for part in (first, other)
    )
    if shapes != others:
        raise WeightsError(
            f"{other.file} - a {other.architecture} of other layers or another size than "
            f"{first.file}, a {first.architecture}: only networks of one size can be joined"
        )


def _join(parts: Sequence[_Part]) -> dict[str, Tensor]:
    first = parts[0]
    width = first.tensors[f"{first.last_layer}.weight"].shape[1]
    joined = {}
    for name in first.tensors:
        tensors = [part.tensors[name] for part in parts]
        layer, _, _ = name.rpartition(".")
        if layer == first.last_layer:
            joined[name] = _mean_of_images(tensors)
        elif not layer:  # SPAN's no_norm: whether the network shifts its input, not a weight
            joined[name] = tensors[0]
        elif tensors[0].dim() == 1 or tensors[0].shape[1] == IMAGE_CHANNELS:
            joined[name] = torch.cat(tensors)
        else:
            joined[name] = _side_by_side(tensors, width)
    return joined


def _mean_of_images(tensors: Sequence[Tensor]) -> Tensor:
    """Join the kernels, or the biases, of the layers that give the images."""
    if tensors[0].dim() == 1:
        return torch.stack(list(tensors)).mean(0)
    return torch.cat(list(tensors), dim=1) / len(tensors)


def _side_by_side(kernels: Sequence[Tensor], width: int) -> Tensor:
    """Join kernels (out, in, h, w) so that each network's outputs see its own inputs alone.

    A layer may read several groups of features (SPAN's ``conv_cat`` reads four): each group of the
    joined network holds that group of all networks.
    """
    outputs, inputs, *size = kernels[0].shape
    groups = inputs // width
    count = len(kernels)
    joined = kernels[0].new_zeros(count, outputs, groups, count, width, *size)
    for index, kernel in enumerate(kernels):
        joined[index, :, :, index] = kernel.reshape(outputs, groups, width, *size)
    return joined.reshape(count * outputs, count * inputs, *size)
