"""Stable Diffusion 2.1-base as a score teacher, and OSEDiff, the one-step super-resolution model made of it."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import (
    Autoencoder,
    ColorFix,
    Condition,
    DiffusionModel,
    DistillkitError,
    VariancePreserving,
    current_memory,
    match_colors,
)
from distillkit_superres.osediff.architecture import LATENT_SCALE
from distillkit_superres.osediff.text import Prompt, PromptOfEach
from distillkit_superres.osediff.tiling import denoise_tiled


def enlarged(lq: Tensor, scale: int) -> Tensor:
    """(B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1]: PIL's bicubic (a = -0.5), without rounding to 8 bits."""
    size = (lq.shape[2] * scale, lq.shape[3] * scale)
    return F.interpolate(lq, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(
        -1, 1
    )


class PosteriorMean(nn.Module):
    """The encoder half of a KL autoencoder: images (B, 3, H, W) -> the means of their latents' posteriors, (B, 4, H / 8, W / 8)."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.encoder, self.quant_conv = (
            vae.get_submodule("encoder"),
            vae.get_submodule("quant_conv"),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(image)).chunk(2, dim=1)[0]


class KLAutoencoder(nn.Module):
    """A KL autoencoder as :class:`distillkit.Autoencoder` wants it: encodes to the posterior's mean."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image).latent_dist.mean  # type: ignore[operator]

    def decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent).sample  # type: ignore[operator]


class StableDiffusion(DiffusionModel):
    """Stable Diffusion 2.1-base: it answers ``predict`` at any of its 1000 times, with or without classifier-free guidance.

    Args:
        unet, vae: diffusers' ``UNet2DConditionModel`` and ``AutoencoderKL``. prompt: images -> the embeddings of their prompts.
        space: name of the autoencoder's latent space.
        negative: embedding of the negative prompt, (1, length, width), and guidance: w of ``eps_neg + w (eps_pos - eps_neg)``
            (Ho & Salimans 2022), at two UNet evaluations; without ``negative`` the prompt's prediction is taken as it is.
    """

    prediction_type = "epsilon"
    scale = 4
    size_multiple = 2
    head = "conv_out"
    negative: Tensor | None

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        prompt: Prompt,
        space: str = "sd-kl-f8",
        *,
        negative: Tensor | None = None,
        guidance: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = unet
        self.codec = Autoencoder(KLAutoencoder(vae), space, LATENT_SCALE)
        self.process = VariancePreserving.scaled_linear(0.00085, 0.012, 1000)
        self.prompt, self.guidance = prompt, guidance
        self.takes_captions = isinstance(prompt, PromptOfEach) and prompt.captions
        self.register_buffer("negative", negative, persistent=False)

    def condition(self, lq: Tensor) -> Condition:
        with torch.no_grad():
            return Condition(extra={"prompt": self.prompt(enlarged(lq, self.scale))})

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        prompt = condition.extra["prompt"]
        if self.negative is None:
            return self.network(z_t, t, prompt).sample
        prompts = torch.cat([self.negative.expand_as(prompt), prompt])
        negative, positive = self.network(
            torch.cat([z_t, z_t]), torch.cat([t, t]), prompts
        ).sample.chunk(2)
        return negative + self.guidance * (positive - negative)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        raise DistillkitError(
            "superres/sd21-base answers for a score only and restores nothing; superres/osediff does"
        )


class OSEDiff(StableDiffusion):
    """One step from the input's own latent: ``z_0 = (z_LQ - noise(T) eps(z_LQ, T, c)) / signal(T)`` at T = 999 (Wu et al. 2024).

    ``signal(T)`` is 0.068, so an error of the network is 14.6 times as large in the latent. No noise is drawn. The condition holds
    the embedded prompt and, encoded when first asked for, the latent of the enlarged input. Only inputs go through the tuned
    encoder; the ground truth and the output go through the base autoencoder. The published code samples the posteriors, here their
    means are taken.

    Args:
        unet: with OSEDiff's adapters merged in. vae: the base autoencoder. lq_encoder: its encoder, with its adapters merged in.
        tile, tile_overlap: of :func:`denoise_tiled`, in latent values.
        color_fix: what :meth:`restore` does to the output's colors, given those of the enlarged input.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        lq_encoder: PosteriorMean,
        prompt: Prompt,
        space: str = "sd-kl-f8",
        *,
        tile: int = 96,
        tile_overlap: int = 32,
        color_fix: ColorFix = "none",
    ) -> None:
        super().__init__(unet, vae, prompt, space)
        self.lq_encoder = lq_encoder
        self.tile, self.tile_overlap, self.color_fix = tile, tile_overlap, color_fix

    def condition(self, lq: Tensor) -> Condition:
        memory = current_memory()

        @cache
        def latent() -> Tensor:
            with torch.no_grad():
                return memory("latent", lambda: self.lq_encoder(image) * LATENT_SCALE)

        with torch.no_grad():
            image = enlarged(lq, self.scale)
            return Condition(extra={"prompt": self.prompt(image), "latent": latent})

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        z = condition.extra["latent"]()
        assert self.process.num_train_timesteps is not None
        t = torch.full((len(z),), self.process.num_train_timesteps - 1, device=z.device)
        noise = denoise_tiled(
            lambda part: self(part, t, condition), z, self.tile, self.tile_overlap
        )
        c = self.process.coefficients(t)
        return (z - c.noise * noise) / c.signal

    def restore(self, lq: Tensor, generator: torch.Generator | None = None) -> Tensor:
        restored = super().restore(lq, generator)
        if self.color_fix == "none":
            return restored
        reference = enlarged(lq, self.scale)
        fixed = match_colors(restored * 0.5 + 0.5, reference * 0.5 + 0.5, self.color_fix)
        return (fixed * 2 - 1).clamp(-1, 1)
