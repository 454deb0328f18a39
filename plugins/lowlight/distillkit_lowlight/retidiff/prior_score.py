"""Reti-Diff as a score teacher in the space of its priors. Needs the extractors of stage 1, which were not released."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distillkit import Condition, DiffusionModel, VariancePreserving
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff, StageOneExtractors


class PriorTeacher(DiffusionModel):
    """The diffusion over both priors as one model, latents (B, 2 prior, 1, 1) = [maps' prior | image's prior].

    Encoding and decoding need the low-light image as well as the latent, so this model has :meth:`encode` and :meth:`decode` with a
    condition in place of a ``codec``. At times other than the last it was never trained on noised priors, only on its own chain: it
    is no calibrated score.
    """

    predicts = "clean"

    def __init__(
        self, network: RetiDiff, extractors: StageOneExtractors, decomposition_low: Decomposition, decomposition_high: Decomposition
    ) -> None:
        super().__init__()
        self.network: RetiDiff = network
        self.extractors = extractors
        self.decomposition_low, self.decomposition_high = decomposition_low, decomposition_high
        self.process = VariancePreserving(network.diffusion.tables["alphas_cumprod"])

    def condition(self, lq: Tensor) -> Condition:
        """``extra``: ``lq`` in [0, 1], its ``maps``, and the vectors ``priors`` that the chains are conditioned on."""
        unit = (lq + 1) / 2
        maps = self.decomposition_low(unit)
        return Condition(extra={"lq": unit, "maps": maps, "priors": self.network.conditions(unit, maps)})

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
        return _latent(Priors(self.network.rex_denoise(rex, t, told.rex), self.network.img_denoise(img, t, told.img)))

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """The latent that the chains arrive at."""
        lq = condition.extra["lq"]
        start = Priors(*(torch.randn(len(lq), self.network.prior, generator=generator).to(lq) for _ in range(2)))
        return _latent(self.network.priors(lq, condition.extra["maps"], start))


class PriorTerms(NamedTuple):
    """Scalars, named as the terms of eq. 3 they stand in for."""

    imitate: Tensor
    anchor: Tensor


def prior_distillation(teacher: PriorTeacher, restored: Tensor, gt: Tensor, lq: Tensor, t: Tensor, noise: Tensor) -> PriorTerms:
    """Score distillation in prior space, with ``z^s`` and ``z`` the latents of the student's image and of the ground truth.

    ``imitate = |eps_T(z_t^s) - n|^2``: the student has no score here, so its own noise stands in for eps_S; the same is
    ``SNR |clean_T(z_t^s) - z^s|^2``. ``anchor = |eps_T(z_t^s) - eps_T(z_t)|^2``, same times and noise on both sides.

    Args:
        restored, gt, lq: images (B, 3, H, W) in [-1, 1]; gradient reaches ``restored`` through the encoder and the denoiser.
        t: integer times (B,). noise: standard normal, (B, 2 prior, 1, 1).
    """
    condition = teacher.condition(lq)
    of_student = teacher.predict(teacher.process.diffuse(teacher.encode(restored, condition), t, noise), t, condition).noise
    with torch.no_grad():
        of_truth = teacher.predict(teacher.process.diffuse(teacher.encode(gt, condition), t, noise), t, condition).noise
    return PriorTerms((of_student - noise).square().mean(), (of_student - of_truth).square().mean())


def _latent(priors: Priors) -> Tensor:
    return torch.cat([priors.rex, priors.img], dim=1)[:, :, None, None]


def _priors(latent: Tensor) -> Priors:
    return Priors(*latent.flatten(1).chunk(2, dim=1))
