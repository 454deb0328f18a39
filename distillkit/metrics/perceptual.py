"""Shift-tolerant LPIPS: a perceptual distance whose weights install from the package index.

Ghildyal & Liu, "Shift-tolerant Perceptual Similarity Metric" (ECCV 2022): LPIPS (Zhang et al. 2018)
on trunks that blur before every stride. The distribution ``stlpips-pytorch`` carries the weights
(BSD 2-Clause); its weight files are read, its code is not imported. The scale is not that of LPIPS:
the two must not share a column.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.errors import WeightsError
from distillkit.files.weights import load_exactly, read_state_dict
from distillkit.metrics.base import require_sides
from distillkit.metrics.options import Trunk

SMALLEST_SIDE: dict[Trunk, int] = {"alex": 21, "vgg": 18}
"""Pixels; below it a feature map is too small for the reflection at its border."""
SLICE_WIDTHS: dict[Trunk, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
}
"""Channels of the features that each slice of a trunk ends in."""


class _BlurPool(nn.Module):
    """Stride 2 behind a 3x3 binomial filter, channel by channel (Zhang 2019).

    Two pixels around the image are reflected.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


def _conv(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
    padding = min(size // 2, 2)
    return [nn.Conv2d(inputs, outputs, size, padding=padding), nn.ReLU()]


def _pool(size: int, channels: int) -> list[nn.Module]:
    # The maximum at stride 1, blurred before every second pixel is dropped, tolerates shifts.
    return [nn.MaxPool2d(size, stride=1), _BlurPool(channels)]


def _alex() -> list[list[nn.Module]]:
    first, relu = _conv(3, 64, 11)
    return [
        [first, _BlurPool(64), relu],
        [*_pool(3, 64), *_conv(64, 192, 5)],
        [*_pool(3, 192), *_conv(192, 384)],
        _conv(384, 256),
        _conv(256, 256),
    ]


def _vgg() -> list[list[nn.Module]]:
    return [
        [*_conv(3, 64), *_conv(64, 64)],
        [*_pool(2, 64), *_conv(64, 128), *_conv(128, 128)],
        [*_pool(2, 128), *_conv(128, 256), *_conv(256, 256), *_conv(256, 256)],
        [*_pool(2, 256), *_conv(256, 512), *_conv(512, 512), *_conv(512, 512)],
        [*_pool(2, 512), *_conv(512, 512), *_conv(512, 512), *_conv(512, 512)],
    ]


def _name_as_in_the_file(slices: Sequence[Sequence[nn.Module]]) -> nn.Sequential:
    """Name layers ``slice1.0, slice1.1, ..., slice2.3, ...``: numbered through, not per slice."""
    trunk = nn.Sequential()
    number = 0
    for position, layers in enumerate(slices, start=1):
        trunk_slice = nn.Sequential()
        for layer in layers:
            trunk_slice.add_module(str(number), layer)
            number += 1
        trunk.add_module(f"slice{position}", trunk_slice)
    return trunk


class PerceptualDistance(nn.Module):
    """Shift-tolerant LPIPS, frozen; differentiable in both images and symmetric in them.

    ``d(a, b) = sum_l mean_hw w_l . (f_l(a) - f_l(b))^2`` with unit-length features ``f_l`` of five
    layers ``l``.

    Args:
        network: ``"alex"`` (2.5 M parameters) or ``"vgg"`` (14.7 M, about 15 times as slow).

    Raises:
        WeightsError: The distribution ``stlpips-pytorch`` is not installed, or its weight file is
            damaged.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: Trunk) -> None:
        super().__init__()
        self.network: Trunk = network
        slices = _alex() if network == "alex" else _vgg()
        self.net = _name_as_in_the_file(slices)
        widths = SLICE_WIDTHS[network]
        self.lin = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))
        path = weight_file(network)
        state = {_own_key(key): value for key, value in read_state_dict(path).items()}
        load_exactly(self, state, path)
        self.requires_grad_(False).eval()
        # Pooling and convolutions of a CPU are 1.4 times as fast, an image at a time 1.6 times.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, image: Tensor) -> list[Tensor]:
        """Compute the unit-length features of the five layers.

        Args:
            image: (B, 3, H, W) in [-1, 1].

        Returns:
            Five tensors (B, C, h, w).

        Raises:
            DataError: A side below ``SMALLEST_SIDE`` (21 px for ``"alex"``, 18 for ``"vgg"``).
        """
        require_sides(image, SMALLEST_SIDE[self.network], self.network)
        x = (image - self.shift) / self.scale
        features = []
        for trunk_slice in self.net:
            x = trunk_slice(x)
            # The tiny constant keeps the gradient of a flat image finite.
            length = (x.square().sum(1, keepdim=True) + 1e-20).sqrt()
            features.append(x / length)
        return features

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Measure the distance of images, each (B, 3, H, W) in [-1, 1].

        Returns:
            The distances (B,), 0 for equal images.

        Raises:
            DataError: A side below ``SMALLEST_SIDE`` (21 px for ``"alex"``, 18 for ``"vgg"``).
        """
        return compare_features(self.lin, self.features(a), self.features(b))


def compare_features(
    weights: Iterable[nn.Module], a: Sequence[Tensor], b: Sequence[Tensor]
) -> Tensor:
    """Compute ``sum_l mean_hw w_l . (a_l - b_l)^2``, the distance of LPIPS.

    Args:
        weights: A 1x1 convolution to one channel for each layer.
        a: The unit-length features of each layer, (B, C, h, w).
        b: Those of other images, or of one.

    Returns:
        The distances (B,).
    """
    distances = []
    for weigh, features_a, features_b in zip(weights, a, b, strict=True):
        weighted = weigh((features_a - features_b).square())
        distances.append(weighted.mean((1, 2, 3)))
    return torch.stack(distances).sum(0)


def weight_file(network: Trunk) -> Path:
    """Find the weights of ``network`` in the installed ``stlpips-pytorch``."""
    package = importlib.util.find_spec("stlpips_pytorch")
    if package is None or not package.submodule_search_locations:
        raise WeightsError(
            "the weights of the perceptual distance are not installed",
            "pip install stlpips-pytorch",
        )
    folder = Path(package.submodule_search_locations[0])
    return folder / "weights" / "vST0.0" / f"{network}_shift_tolerant.pth"


def _own_key(key: str) -> str:
    """Map ``lin0.model.1.weight`` to ``lin.0.weight`` and ``scaling_layer.shift`` to ``shift``."""
    if key.startswith("lin"):
        number = key.removeprefix("lin")[0]
        return f"lin.{number}.weight"
    return key.removeprefix("scaling_layer.")
