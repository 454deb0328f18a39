"""DISTS (Ding, Ma, Wang and Simoncelli, "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020).

``1 - sum_c (alpha_c l_c + beta_c s_c)`` over the channels of the image itself and of five stages of VGG16, whose max pooling is
replaced by L2 pooling. ``l`` compares the means of two feature maps (texture), ``s`` their covariance (structure); the weights are
normalized to sum to one.
"""

from __future__ import annotations

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
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dists(weights: Path, trunk: Path | None = None) -> Metric:
    """DISTS, at the size that the images have.

    Args:
        weights: ``alpha`` and ``beta``, each (1, 1475, 1, 1). trunk: ImageNet weights of VGG16 with torchvision's keys
            ``features.*``; by default they are in ``weights`` too.

    Raises:
        WeightsError: a file is missing, damaged, or of another architecture.
    """
    network = Dists()
    state = read_state_dict(weights)
    if trunk is not None:
        state |= {k: v for k, v in read_state_dict(trunk).items() if k.startswith("features.")}
    load_exactly(network, state, weights)
    network.requires_grad_(False).eval()

    def distance(restored: Tensor, gt: Tensor) -> Tensor:
        return network.to(restored.device)(restored, gt)

    protocol = "DISTS, VGG16 with L2 pooling, RGB, not resized, no border crop"
    return FullReference(
        "dists", protocol, distance, higher_is_better=False, differentiable=True, perceptual=True
    )


class Dists(nn.Module):
    """The distance of images (B, 3, H, W) and (B or 1, 3, H, W) in [-1, 1] as (B,): 0 for equal images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for width in WIDTHS:
            if width:
                self.features.append(nn.Conv2d(channels, width, 3, padding=1)).append(nn.ReLU())
                channels = width
            else:
                self.features.append(L2Pool())
        self.alpha, self.beta = (nn.Parameter(torch.zeros(1, sum(STAGES), 1, 1)) for _ in range(2))

    def stages(self, image: Tensor) -> list[Tensor]:
        """The image in [0, 1], and what each stage ends in, just before its pooling."""
        image = (image + 1) / 2
        mean, deviation = (image.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
        x, found = (image - mean) / deviation, [image]
        for layer in self.features:
            if isinstance(layer, L2Pool):
                found.append(x)
            x = layer(x)
        return [*found, x]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        means, structures = [], []
        for fa, fb in zip(self.stages(a), self.stages(b), strict=True):
            mean_a, mean_b = fa.mean((2, 3), keepdim=True), fb.mean((2, 3), keepdim=True)
            var_a, var_b = (
                (fa - mean_a).square().mean((2, 3), keepdim=True),
                (fb - mean_b).square().mean((2, 3), keepdim=True),
            )
            covariance = (fa * fb).mean((2, 3), keepdim=True) - mean_a * mean_b
            means.append((2 * mean_a * mean_b + STABILITY) / (mean_a**2 + mean_b**2 + STABILITY))
            structures.append((2 * covariance + STABILITY) / (var_a + var_b + STABILITY))
        similarity = self.alpha * torch.cat(means, 1) + self.beta * torch.cat(structures, 1)
        return 1 - similarity.sum((1, 2, 3)) / (self.alpha.sum() + self.beta.sum())


class L2Pool(nn.Module):
    """``sqrt(g * x^2)`` at stride 2, g a 3x3 Hann window of sum 1."""

    def forward(self, x: Tensor) -> Tensor:
        line = x.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
