"""FID on the scale of published numbers.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
2017.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from distillkit.errors import DataError, WeightsError
from distillkit.files.images import to_uint8
from distillkit.files.weights import read_state_dict
from distillkit.metrics.base import SetMetric

PROTOCOL = (
    "pooled features of the Inception of published FIDs (torch-fidelity, {weights}), "
    "8-bit RGB, full images resized to 299x299 as in TensorFlow 1"
)


def fid(weights: Path) -> SetMetric:
    """Make FID with the Inception of published FIDs.

    Args:
        weights: Torch-fidelity's file, converted from the original TensorFlow weights.

    Raises:
        WeightsError: The file is missing, damaged, or of another architecture.
    """
    return Fid(_read_inception(weights), PROTOCOL.format(weights=weights.name))


class Fid:
    """The Frechet distance of the Gaussians of two sets of features.

    ``|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))``, m the means, S the covariances.

    Args:
        network: Maps uint8 images (B, 3, H, W) to a tuple of features (B, D).
        protocol: What its numbers carry.
    """

    name = "fid"
    higher_is_better = False
    differentiable = False
    perceptual = True

    def __init__(self, network: nn.Module, protocol: str) -> None:
        self.network = network
        self.protocol = protocol

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Compute features (B, D) of images (B, 3, H, W) in [-1, 1]."""
        (features,) = self.network.to(images.device)(to_uint8(images))
        return features

    def distance(self, restored: Tensor, gt: Tensor) -> float:
        """Measure the distance of two sets of features, (N, D) and (M, D).

        With ``S = A' A`` of the centered, scaled features A, the trace of the root is the sum of
        the singular values of ``A_1 A_2'``, which is N x M and not D x D.

        Raises:
            DataError: A set of one image, which has no covariance.
        """
        if min(len(restored), len(gt)) < 2:
            raise DataError("FID needs at least two images")
        mean_a, a = _center(restored.double())
        mean_b, b = _center(gt.double())
        root = torch.linalg.svdvals(a @ b.T).sum()
        between_means = (mean_a - mean_b).square().sum()
        return float(between_means + a.square().sum() + b.square().sum() - 2 * root)


def _center(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,), and A (N, D) with ``A' A`` the covariance."""
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5


def _read_inception(path: Path) -> nn.Module:
    # torch-fidelity unpickles whatever is in its weight file, so it gets a copy of the tensors
    # that were read safely.
    tensors = io.BytesIO()
    torch.save(read_state_dict(path), tensors)
    tensors.seek(0)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        return FeatureExtractorInceptionV3(
            name="inception-v3-compat",
            features_list=["2048"],
            feature_extractor_weights_path=tensors,
        )
    except (RuntimeError, TypeError) as e:
        problem = "weights of another architecture than the Inception of published FIDs"
        raise WeightsError(f"{path} - {problem}") from e
