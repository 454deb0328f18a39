"""Reti-Diff as a teacher of outputs, and its retinex maps as a measure of distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff


class RetiDiffTeacher(nn.Module):
    """Restores low-light images; an :class:`distillkit.OutputTeacher`.

    It has no score in image space: its diffusion runs over prior vectors, whose starts are all that is random here.
    Channel attention and the priors see the whole image, so the restored crop is not the crop of the restored image.
    """

    scale = 1
    nfe = 1
    size_multiple = 1

    def __init__(self, network: RetiDiff, decomposition: Decomposition) -> None:
        super().__init__()
        self.network, self.decomposition = network, decomposition

    def restore(self, lq: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Low-light images (B, 3, H, W) in [-1, 1] -> restored images of the same shape, clamped to [-1, 1].

        Sides are filled to multiples of 8 at the right and bottom by reflection, before the decomposition. The starts of the two
        chains are drawn as vectors of the whole batch, first for the maps' prior, then for the image's.
        """
        start = Priors(
            *(
                torch.randn(len(lq), self.network.prior, generator=generator).to(lq)
                for _ in range(2)
            )
        )
        return self.restore_unit((lq + 1) / 2, start).clamp(0, 1) * 2 - 1

    def restore_unit(self, lq: Tensor, start: Priors) -> Tensor:
        """The same in [0, 1], not clamped, from given standard normal vectors."""
        height, width = lq.shape[-2:]
        padded = F.pad(lq, (0, -width % 8, 0, -height % 8), mode="reflect")
        return self.network(padded, self.decomposition(padded), start)[..., :height, :width]


class RetinexDistance:
    """Mean squared difference of the retinex maps of two images: a differentiable :class:`distillkit.Metric`.

    With the decomposition of *bright* images it compares a student's output with the ground truth through a frozen part of
    Reti-Diff. It takes the place of an anchor term, which a teacher without a score cannot give (its own would be plain MSE: the
    teacher cancels); it is not eq. 3 of the paper.
    """

    name = "retinex"
    protocol = "mean squared difference of reflectance and illumination maps (4 channels) of RGB in [0, 1], no border crop"
    higher_is_better = False
    differentiable = True
    perceptual = False

    def __init__(self, decomposition: Decomposition) -> None:
        self.decomposition = decomposition

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        network = self.decomposition.to(restored.device)
        return (network((restored + 1) / 2) - network((gt + 1) / 2)).square().mean(dim=(1, 2, 3))
