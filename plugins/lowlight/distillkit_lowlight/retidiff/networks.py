"""The two networks of Reti-Diff: the one that restores, and the stage-1 one whose extractors see the ground truth."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from distillkit_lowlight.retidiff.priors import (
    ImageExtractor,
    RetinexExtractor,
    VectorDenoiser,
    VectorDiffusion,
)
from distillkit_lowlight.retidiff.transformer import Transformer


class Priors(NamedTuple):
    """The two prior vectors, (B, 4 n_feats) each: of the retinex maps (reflectance, then illumination) and of the image."""

    rex: Tensor
    img: Tensor


class RetiDiff(nn.Module):
    """Reti-Diff (He et al., ICLR 2025): both priors by diffusion from the low-light image, then the transformer.

    Args:
        n_feats: a prior has ``4 n_feats`` numbers. n_encoder_res: residual blocks of an extractor. n_denoise_res: layers of a
            denoiser. timesteps, linear_start, linear_end: schedule of the priors, linear in sqrt(beta).
        transformer: options of :class:`Transformer`.
    """

    def __init__(
        self,
        n_feats: int = 64,
        n_encoder_res: int = 5,
        n_denoise_res: int = 1,
        timesteps: int = 4,
        linear_start: float = 0.1,
        linear_end: float = 0.99,
        **transformer: Any,
    ) -> None:
        super().__init__()
        self.prior = 4 * n_feats
        self.diffusion = VectorDiffusion(timesteps, linear_start, linear_end)
        self.G = Transformer(self.prior, **transformer)
        self.img_condition = ImageExtractor(n_feats, n_encoder_res)
        self.rex_condition = RetinexExtractor(n_feats, n_encoder_res)
        self.img_denoise = VectorDenoiser(self.prior, n_denoise_res, timesteps)
        self.rex_denoise = VectorDenoiser(self.prior, n_denoise_res, timesteps)

    def conditions(self, lq: Tensor, maps: Tensor) -> Priors:
        """What the chains are told: of ``lq`` (B, 3, H, W) in [0, 1] and its retinex maps (B, 4, H, W)."""
        return Priors(self.rex_condition(maps), self.img_condition(lq))

    def priors(self, lq: Tensor, maps: Tensor, start: Priors) -> Priors:
        """The priors that the chains arrive at from standard normal vectors ``start``."""
        condition = self.conditions(lq, maps)
        rex = self.diffusion.descend(self.rex_denoise, start.rex, condition.rex)[-1]
        img = self.diffusion.descend(self.img_denoise, start.img, condition.img)[-1]
        return Priors(rex, img)

    def forward(self, lq: Tensor, maps: Tensor, start: Priors) -> Tensor:
        """Restored images (B, 3, H, W), nominally in [0, 1]; sides must be multiples of 8."""
        return self.G(lq, *self.priors(lq, maps, start))


class StageOneExtractors(nn.Module):
    """The extractors of stage 1, which see the low-light image *and* the ground truth: what the diffusion learns to predict."""

    def __init__(self, n_feats: int = 64, n_encoder_res: int = 5) -> None:
        super().__init__()
        self.E_rex = RetinexExtractor(n_feats, n_encoder_res, images=2)
        self.E_img = ImageExtractor(n_feats, n_encoder_res, images=2)

    def forward(self, lq: Tensor, lq_maps: Tensor, gt: Tensor, gt_maps: Tensor) -> Priors:
        """Images (B, 3, H, W) in [0, 1] and their retinex maps (B, 4, H, W)."""
        return Priors(self.E_rex(lq_maps, gt_maps), self.E_img(lq, gt))
