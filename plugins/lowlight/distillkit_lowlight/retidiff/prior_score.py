"""Reti-Diff as a score teacher in the space of its priors.

It needs the extractors of stage 1, which were not released.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit import Condition, DiffusionModel, ModelInput, VariancePreserving
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import Priors, RetiDiff, StageOneExtractors


class PriorTeacher(DiffusionModel):
    """The diffusion over both priors as one model.

    Latents are (B, 2 prior_size, 1, 1) = [maps' prior | image's prior]. Encoding and decoding need
    the low-light image as well as the latent: in place of a ``codec`` this model has :meth:`encode`
    and :meth:`decode`.

    As a score teacher, its *anchor* term compares the noise of priors; its *imitate* term compares
    the student's clean latent with the image that the transformer makes of the predicted
    priors. At timesteps other than the last it was never trained on noised priors, only on its own
    chain: it is no calibrated score.

    Args:
        network: Reti-Diff.
        extractors: The extractors of its stage 1.
        decomposition_low: The decomposition network of dark images.
        decomposition_high: The decomposition network of bright images.
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
        self.decomposition_low = decomposition_low
        self.decomposition_high = decomposition_high
        self.process = VariancePreserving(network.diffusion.tables["alphas_cumprod"])

    @property
    def space(self) -> str:
        return f"retidiff-priors{2 * self.network.prior_size}"

    def condition(self, inputs: ModelInput) -> Condition:
        """Compute what the diffusion is conditioned on.

        Returns:
            ``extra`` has ``lq`` in [0, 1], its retinex ``maps``, and the condition vectors
            ``priors``.
        """
        lq = (inputs.lq + 1) / 2
        maps = self.decomposition_low(lq)
        priors = self.network.conditions(lq, maps)
        return Condition(extra={"lq": lq, "maps": maps, "priors": priors})

    def encode(self, image: Tensor, condition: Condition) -> Tensor:
        """Extract the priors of clean images, with gradient.

        Args:
            image: Shape (B, 3, H, W), in [-1, 1], sides multiples of 8.
            condition: From :meth:`condition`.
        """
        unit = (image + 1) / 2
        maps = self.decomposition_high(unit)
        lq = condition.extra["lq"]
        lq_maps = condition.extra["maps"]
        return _to_latent(self.extractors(lq, lq_maps, unit, maps))

    def decode(self, latent: Tensor, condition: Condition) -> Tensor:
        """Restore the image with given priors.

        Returns:
            The transformer's image, shape (B, 3, H, W), nominally in [-1, 1].
        """
        priors = _to_priors(latent)
        lq = condition.extra["lq"]
        restored = self.network.G(lq, priors.rex, priors.img)
        return restored * 2 - 1

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict the clean latent of ``z_t`` at integer timesteps ``t`` (B,)."""
        noisy = _to_priors(z_t)
        known: Priors = condition.extra["priors"]
        rex = self.network.rex_denoise(noisy.rex, t, known.rex)
        img = self.network.img_denoise(noisy.img, t, known.img)
        return _to_latent(Priors(rex, img))

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Run the reverse chains from random starts to the latent."""
        lq = condition.extra["lq"]
        maps = condition.extra["maps"]
        start = self.network.draw_start(lq, generator)
        return _to_latent(self.network.priors(lq, maps, start))


def _to_latent(priors: Priors) -> Tensor:
    vector = torch.cat([priors.rex, priors.img], dim=1)
    return vector[:, :, None, None]


def _to_priors(latent: Tensor) -> Priors:
    rex, img = latent.flatten(1).chunk(2, dim=1)
    return Priors(rex, img)
