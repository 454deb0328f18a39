"""DISTS: structure and texture similarity.

Ding, Ma, Wang and Simoncelli, "Image Quality Assessment: Unifying Structure and Texture
Similarity", 2020: ``1 - sum_c (alpha_c l_c + beta_c s_c)`` over the channels of the image itself
and of five stages of VGG16, whose max pooling is replaced by L2 pooling. ``l`` compares the means
of two feature maps (texture), ``s`` their covariance (structure); the weights are normalized to sum
to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.files.weights import load_exactly, read_state_dict
from distillkit.metrics.base import FullReference, Metric

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Convolutions of VGG16 in order; 0 is pooling."""
STAGES = (3, 64, 128, 256, 512, 512)
STABILITY = 1e-6
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def dists(weights: Path, trunk: Path | None = None) -> Metric:
    """Make DISTS, at the size that the images have.

    Args:
        weights: ``alpha`` and ``beta``, each (1, 1475, 1, 1).
        trunk: ImageNet weights of VGG16 with torchvision's keys ``features.*``; by default they
            are in ``weights`` too.

    Raises:
        WeightsError: A file is missing, damaged, or of another architecture.
    """
    network = Dists()
    state = read_state_dict(weights)
    if trunk is not None:
        for key, value in read_state_dict(trunk).items():
            if key.startswith("features."):
                state[key] = value
    load_exactly(network, state, weights)
    network.requires_grad_(False).eval()

    def features(image: Tensor) -> list[Tensor]:
        return network.to(image.device).stages(image)

    return FullReference(
        name="dists",
        protocol="DISTS, VGG16 with L2 pooling, RGB, not resized, no border crop",
        function=network.compare,
        features=features,
        higher_is_better=False,
        differentiable=True,
        perceptual=True,
    )


class Dists(nn.Module):
    """The network behind DISTS."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for width in WIDTHS:
            if not width:
                self.features.append(L2Pool())
                continue
            self.features.append(nn.Conv2d(channels, width, 3, padding=1))
            self.features.append(nn.ReLU())
            channels = width
        self.alpha = nn.Parameter(torch.zeros(1, sum(STAGES), 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, sum(STAGES), 1, 1))

    def stages(self, image: Tensor) -> list[Tensor]:
        """Return the image in [0, 1] and the output of each stage, just before its pooling."""
        image = (image + 1) / 2
        mean = image.new_tensor(MEAN).view(1, 3, 1, 1)
        deviation = image.new_tensor(DEVIATION).view(1, 3, 1, 1)
        x = (image - mean) / deviation
        outputs = [image]
        for layer in self.features:
            if isinstance(layer, L2Pool):
                outputs.append(x)
            x = layer(x)
        return [*outputs, x]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Measure images (B, 3, H, W) and (B or 1, 3, H, W) in [-1, 1].

        Returns:
            The distances (B,), 0 for equal images.
        """
        return self.compare(self.stages(a), self.stages(b))

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Measure images by their :meth:`stages`; return the distances (B,)."""
        textures = []
        structures = []
        for features_a, features_b in zip(a, b, strict=True):
            texture, structure = _compare(features_a, features_b)
            textures.append(texture)
            structures.append(structure)
        similarity = self.alpha * torch.cat(textures, 1) + self.beta * torch.cat(structures, 1)
        return 1 - similarity.sum((1, 2, 3)) / (self.alpha.sum() + self.beta.sum())


def _compare(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return texture and structure similarity of features (B, C, h, w), each (B, C, 1, 1)."""
    mean_a = _mean(a)
    mean_b = _mean(b)
    variance_a = _mean((a - mean_a).square())
    variance_b = _mean((b - mean_b).square())
    covariance = _mean(a * b) - mean_a * mean_b
    texture = (2 * mean_a * mean_b + STABILITY) / (mean_a**2 + mean_b**2 + STABILITY)
    structure = (2 * covariance + STABILITY) / (variance_a + variance_b + STABILITY)
    return texture, structure


def _mean(features: Tensor) -> Tensor:
    return features.mean((2, 3), keepdim=True)


class L2Pool(nn.Module):
    """``sqrt(g * x^2)`` at stride 2, with g a 3x3 Hann window of sum 1."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        line = x.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(line, line).expand(channels, 1, 3, 3)
        # The tiny constant keeps the root's gradient finite at 0.
        power = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=channels)
        return (power + 1e-12).sqrt()
