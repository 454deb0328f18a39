"""Reti-Diff as a score teacher in the space of its priors. Needs the extractors of stage 1, which were not released."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit import Condition, DiffusionModel, VariancePreserving
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff, StageOneExtractors


class PriorTeacher(DiffusionModel):
    """The diffusion over both priors as one model, latents (B, 2 prior, 1, 1) = [maps' prior | image's prior].

    Encoding and decoding need the low-light image as well as the latent: in place of a ``codec`` this model has :meth:`encode` and
    :meth:`decode`. Asked for scores, its *anchor* term compares noises of priors; its *imitate* term compares the student's clean
    prediction with the image that the transformer makes of the predicted priors. At times other than the last it was never trained
    on noised priors, only on its own chain: it is no calibrated score.
    """

    prediction_type = "sample"
    size_multiple = 8

    def __init__(
        self,
        network: RetiDiff,
        extractors: StageOneExtractors,
        decomposition_low: Decomposition,
        decomposition_high: Decomposition,
    ) -> None:
        super().__init__()
        self.network: RetiDiff = network
        self.extractors = extractors
        self.decomposition_low, self.decomposition_high = decomposition_low, decomposition_high
        self.process = VariancePreserving(network.diffusion.tables["alphas_cumprod"])

    @property
    def space(self) -> str:
        return f"retidiff-priors{2 * self.network.prior}"

    def condition(self, lq: Tensor) -> Condition:
        """``extra``: ``lq`` in [0, 1], its ``maps``, and the vectors ``priors`` that the chains are conditioned on."""
        unit = (lq + 1) / 2
        maps = self.decomposition_low(unit)
        return Condition(
            extra={"lq": unit, "maps": maps, "priors": self.network.conditions(unit, maps)}
        )

    def encode(self, image: Tensor, condition: Condition) -> Tensor:
        """Clean images (B, 3, H, W) in [-1, 1], sides multiples of 8 -> latents, with gradient."""
        unit = (image + 1) / 2
        maps = self.decomposition_high(unit)
        return _latent(self.extractors(condition.extra["lq"], condition.extra["maps"], unit, maps))

    def decode(self, latent: Tensor, condition: Condition) -> Tensor:
        """The transformer's image for these priors, (B, 3, H, W) nominally in [-1, 1]."""
        return self.network.G(condition.extra["lq"], *_priors(latent)) * 2 - 1

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The clean latent of ``z_t`` at integer times ``t`` (B,)."""
        rex, img = _priors(z_t)
        told: Priors = condition.extra["priors"]
        return _latent(
            Priors(
                self.network.rex_denoise(rex, t, told.rex),
                self.network.img_denoise(img, t, told.img),
            )
        )

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """The latent that the chains arrive at."""
        lq = condition.extra["lq"]
        start = Priors(
            *(
                torch.randn(len(lq), self.network.prior, generator=generator).to(lq)
                for _ in range(2)
            )
        )
        return _latent(self.network.priors(lq, condition.extra["maps"], start))


def _latent(priors: Priors) -> Tensor:
    return torch.cat([priors.rex, priors.img], dim=1)[:, :, None, None]


def _priors(latent: Tensor) -> Priors:
    return Priors(*latent.flatten(1).chunk(2, dim=1))
