"""FID (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.errors import DataError
from distillkit.files.weights import load_exactly, read_state_dict
from distillkit.metrics.base import SetMetric

SIDE = 299
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fid(weights: Path) -> SetMetric:
    """FID with torchvision's Inception v3.

    Args:
        weights: torchvision's file of its ImageNet weights.

    Raises:
        WeightsError: the file is missing, damaged, or of another architecture.
    """
    return Fid(_inception(weights), f"weights {weights.name}")


class Fid:
    """``|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`` of the Gaussians of two sets of features.

    Args:
        network: images (B, 3, 299, 299), of ImageNet's mean and deviation, -> features (B, D). of: what the protocol says of it.
    """

    name, higher_is_better, differentiable, perceptual = "fid", False, False, True

    def __init__(self, network: nn.Module, of: str) -> None:
        self.network = network
        self.protocol = (
            f"pooled features of torchvision's Inception v3 ({of}), whole images resized to {SIDE}x{SIDE} bilinearly with "
            "antialiasing; not the Inception of published FIDs: compare only among numbers of this protocol"
        )

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, D)."""
        resized = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        mean, deviation = (images.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
        return self.network.to(images.device)(((resized + 1) / 2 - mean) / deviation)

    def distance(self, restored: Tensor, gt: Tensor) -> float:
        """The distance of two sets of features, (N, D) and (M, D).

        With ``S = A A'`` of the centered features A, the root's trace is the sum of the singular values of ``A_1' A_2``.

        Raises:
            DataError: a set of one image, which has no covariance.
        """
        if min(len(restored), len(gt)) < 2:
            raise DataError("FID needs at least two images")
        sets = [x.double() for x in (restored, gt)]
        means = [x.mean(0) for x in sets]
        a, b = ((x - m) / (len(x) - 1) ** 0.5 for x, m in zip(sets, means, strict=True))
        root = torch.linalg.svdvals(a @ b.T).sum()
        return float(
            (means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * root
        )


def _inception(path: Path) -> nn.Module:
    state = read_state_dict(path)
    from torchvision.models import inception_v3

    model = inception_v3(weights=None, init_weights=False, transform_input=False)
    load_exactly(model, state, path)
    model.fc = nn.Identity()
    return model.requires_grad_(False).eval()
