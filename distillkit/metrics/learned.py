"""LPIPS, and shift-tolerant LPIPS whose weights come with an installed package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.errors import WeightsError
from distillkit.files.weights import load_exactly, read_state_dict
from distillkit.metrics.base import FullReference, Metric
from distillkit.metrics.options import Trunk
from distillkit.metrics.perceptual import SMALLEST_SIDE, PerceptualDistance, compare_features

LPIPS_SMALLEST_SIDE: dict[Trunk, int] = {"alex": 31, "vgg": 16}
"""Pixels; below it a pooling of the trunk has nothing left to take."""


def stlpips(net: Trunk) -> Metric:
    """Make shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022).

    Its scale is not that of LPIPS: never put both in one column.
    """
    protocol = f"shift-tolerant LPIPS vST0.0, {net}, RGB"
    network = PerceptualDistance(net)

    def features(image: Tensor) -> list[Tensor]:
        return network.to(image.device).features(image)

    return _perceptual(f"stlpips-{net}", protocol, features, network.lin, SMALLEST_SIDE[net])


def lpips(net: Trunk, trunk: Path) -> Metric:
    """Make LPIPS v0.1 (Zhang et al., CVPR 2018) with the ``lpips`` package.

    The package brings the linear weights; nothing is downloaded.

    Args:
        net: The trunk's network.
        trunk: Its ImageNet weights, with torchvision's keys ``features.*``. Where the file holds
            the linear layers too (``lin0.weight`` ..., a complete LPIPS), they are taken from it;
            other keys are ignored.

    Raises:
        WeightsError: The trunk's file is missing, damaged or of another network.
    """
    if not trunk.is_file():
        raise WeightsError(
            f"{trunk} - LPIPS needs torchvision's ImageNet weights of {net}: "
            "put the file there or set `trunk` to it"
        )
    from lpips import normalize_tensor

    protocol = f"LPIPS v0.1, {net}, RGB"
    network = _read_lpips(net, trunk)

    def features(image: Tensor) -> list[Tensor]:
        on_device = network.to(image.device)
        return [normalize_tensor(x) for x in on_device.net(on_device.scaling_layer(image))]

    return _perceptual(f"lpips-{net}", protocol, features, network.lins, LPIPS_SMALLEST_SIDE[net])


def _read_lpips(net: Trunk, path: Path) -> Any:
    model = _untrained_lpips(net)
    # The package numbers the layers of its slices as torchvision does: slice2.3 is features.3.
    own_keys = {}
    for key in model.net.state_dict():
        own_keys[f"features.{key.split('.', 1)[1]}"] = key
    trunk = {}
    linear = {}
    for key, value in read_state_dict(path).items():
        if key.startswith("features."):
            trunk[own_keys.get(key, key)] = value
        elif key.startswith("lin"):
            number = key.removeprefix("lin")[0]
            linear[f"{number}.model.1.weight"] = value
    load_exactly(model.net, trunk, path)
    if linear:
        load_exactly(model.lins, linear, path)
    # As in PerceptualDistance.
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _untrained_lpips(net: Trunk) -> Any:
    """Make the package's LPIPS with a random trunk, and leave the global random state alone."""
    import lpips as package

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # torchvision deprecates the argument with which lpips asks for an untrained trunk.
        warnings.simplefilter("ignore")
        return package.LPIPS(net=net, pnet_rand=True, verbose=False)


def _perceptual(
    name: str,
    protocol: str,
    features: Callable[[Tensor], list[Tensor]],
    weights: nn.ModuleList,
    smallest_side: int,
) -> Metric:
    def compare(restored: Sequence[Tensor], gt: Sequence[Tensor]) -> Tensor:
        return compare_features(weights, restored, gt)

    return FullReference(
        name=name,
        protocol=f"{protocol}, no border crop",
        function=compare,
        features=features,
        higher_is_better=False,
        differentiable=True,
        perceptual=True,
        smallest_side=smallest_side,
    )
