"""The two networks of Reti-Diff: the restoring one, and the extractors of stage 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from distillkit_lowlight.retidiff.config import RetiDiffConfig
from distillkit_lowlight.retidiff.priors import (
    ImageExtractor,
    RetinexExtractor,
    VectorDenoiser,
    VectorDiffusion,
)
from distillkit_lowlight.retidiff.transformer import Transformer


class Priors(NamedTuple):
    """The two prior vectors of an image, each (B, 4 n_feats)."""

    rex: Tensor
    """Prior of the retinex maps: reflectance, then illumination."""
    img: Tensor
    """Prior of the image."""


class RetiDiff(nn.Module):
    """Reti-Diff (He et al., ICLR 2025).

    Both priors are made by diffusion from the low-light image; they modulate the transformer that
    restores it.
    """

    def __init__(self, config: RetiDiffConfig) -> None:
        super().__init__()
        self.prior_size = config.prior_size
        self.diffusion = VectorDiffusion(
            config.timesteps,
            config.linear_start,
            config.linear_end,
        )
        self.G = Transformer(config)
        self.img_condition = ImageExtractor(config.n_feats, config.n_encoder_res)
        self.rex_condition = RetinexExtractor(config.n_feats, config.n_encoder_res)
        self.img_denoise = _make_denoiser(config)
        self.rex_denoise = _make_denoiser(config)

    def conditions(self, lq: Tensor, maps: Tensor) -> Priors:
        """Compute the vectors that the diffusion is conditioned on.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1].
            maps: Their retinex maps, shape (B, 4, H, W).
        """
        return Priors(rex=self.rex_condition(maps), img=self.img_condition(lq))

    def draw_start(self, lq: Tensor, generator: Generator | None) -> Priors:
        """Draw the standard normal vectors that the reverse chains start from.

        They are drawn on the CPU for the whole batch, first those of the maps, then those of the
        images.

        Args:
            lq: The images to draw for; the vectors get their type and device.
            generator: Source of the draws.
        """
        shape = (len(lq), self.prior_size)
        rex = torch.randn(shape, generator=generator)
        img = torch.randn(shape, generator=generator)
        return Priors(rex.to(lq), img.to(lq))

    def priors(self, lq: Tensor, maps: Tensor, start: Priors) -> Priors:
        """Run the reverse chains.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1].
            maps: Their retinex maps, shape (B, 4, H, W).
            start: Standard normal vectors.
        """
        condition = self.conditions(lq, maps)
        run = self.diffusion.run_reverse_chain
        rex_chain = run(self.rex_denoise, start.rex, condition.rex)
        img_chain = run(self.img_denoise, start.img, condition.img)
        return Priors(rex=rex_chain[-1], img=img_chain[-1])

    def forward(self, lq: Tensor, maps: Tensor, start: Priors) -> Tensor:
        """Restore images.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1], sides multiples of 8.
            maps: Their retinex maps, shape (B, 4, H, W).
            start: Standard normal vectors.

        Returns:
            Restored images, shape (B, 3, H, W), nominally in [0, 1].
        """
        priors = self.priors(lq, maps, start)
        return self.G(lq, priors.rex, priors.img)


def _make_denoiser(config: RetiDiffConfig) -> VectorDenoiser:
    return VectorDenoiser(config.prior_size, config.n_denoise_res, config.timesteps)


class StageOneExtractors(nn.Module):
    """The extractors of stage 1, which see the low-light image *and* the ground truth.

    Their vectors are what the diffusion learns to predict.
    """

    def __init__(self, n_feats: int = 64, n_encoder_res: int = 5) -> None:
        super().__init__()
        self.E_rex = RetinexExtractor(n_feats, n_encoder_res, images=2)
        self.E_img = ImageExtractor(n_feats, n_encoder_res, images=2)

    def forward(
        self,
        lq: Tensor,
        lq_maps: Tensor,
        gt: Tensor,
        gt_maps: Tensor,
    ) -> Priors:
        """Extract the priors of image pairs.

        Args:
            lq: Low-light images, shape (B, 3, H, W), in [0, 1].
            lq_maps: Their retinex maps, shape (B, 4, H, W).
            gt: Ground truth, shape (B, 3, H, W), in [0, 1].
            gt_maps: Its retinex maps, shape (B, 4, H, W).
        """
        return Priors(rex=self.E_rex(lq_maps, gt_maps), img=self.E_img(lq, gt))
