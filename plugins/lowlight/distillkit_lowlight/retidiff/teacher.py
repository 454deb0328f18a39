"""Reti-Diff as an output teacher, and its retinex maps as a distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import ModelInput
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff


class RetiDiffTeacher(nn.Module):
    """Restores low-light images; a :class:`distillkit.OutputTeacher`.

    It has no score in image space: its diffusion runs over prior vectors, and only their starts are
    random. Channel attention and the priors see the full image, so the restored crop is not the
    crop of the restored image.
    """

    scale = 1
    nfe = 1
    size_multiple = 1

    def __init__(self, network: RetiDiff, decomposition: Decomposition) -> None:
        super().__init__()
        self.network = network
        self.decomposition = decomposition

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore low-light images of any size.

        The starts of the two reverse chains are drawn for the whole batch, see
        :meth:`RetiDiff.draw_start`.

        Args:
            inputs: Images of shape (B, 3, H, W), in [-1, 1].
            generator: Source of the starts, on the CPU.

        Returns:
            Images of the same shape, clamped to [-1, 1].
        """
        start = self.network.draw_start(inputs.lq, generator)
        restored = self.restore_unit((inputs.lq + 1) / 2, start)
        return restored.clamp(0, 1) * 2 - 1

    def restore_unit(self, lq: Tensor, start: Priors) -> Tensor:
        """Restore images in [0, 1], without clamping.

        Sides are padded to multiples of 8 by reflection.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1].
            start: Standard normal vectors.
        """
        height, width = lq.shape[-2:]
        # At the right and bottom only, and before the decomposition, as in the published code.
        missing_rows = -height % 8
        missing_columns = -width % 8
        padded = F.pad(lq, (0, missing_columns, 0, missing_rows), mode="reflect")
        maps = self.decomposition(padded)
        restored = self.network(padded, maps, start)
        return restored[..., :height, :width]


class RetinexDistance:
    """The mean squared difference of two images' retinex maps, a differentiable metric.

    With the decomposition of *bright* images it compares a student's output with the ground truth
    through a frozen network of Reti-Diff. It replaces the anchor term, which a teacher without a
    score cannot give (its own would be plain MSE, because the teacher cancels). It is not eq. 3 of
    the paper.
    """

    name = "retinex"
    protocol = (
        "mean squared difference of reflectance and illumination maps (4 channels) "
        "of RGB in [0, 1], no border crop"
    )
    higher_is_better = False
    differentiable = True
    perceptual = False

    def __init__(self, decomposition: Decomposition) -> None:
        self.decomposition = decomposition

    def __call__(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in [-1, 1]; one value for each, shape (B,)."""
        network = self.decomposition.to(restored.device)
        restored_maps = network((restored + 1) / 2)
        gt_maps = network((gt + 1) / 2)
        return (restored_maps - gt_maps).square().mean(dim=(1, 2, 3))
