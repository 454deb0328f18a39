"""Stable Diffusion 2.1-base as a score teacher, and OSEDiff.

OSEDiff is the one-step super-resolution model made of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import (
    Autoencoder,
    Condition,
    DiffusionModel,
    DistillkitError,
    ModelInput,
    VariancePreserving,
)
from distillkit_superres.osediff.sizes import LATENT_SCALE
from distillkit_superres.osediff.text import Prompt, PromptPerImage
from distillkit_superres.osediff.tiling import denoise_tiled


def enlarge(lq: Tensor, scale: int) -> Tensor:
    """Enlarge images by PIL's bicubic kernel (a = -0.5), without rounding to 8 bits.

    Args:
        lq: Shape (B, 3, h, w), in [-1, 1].
        scale: Output side divided by input side.

    Returns:
        Shape (B, 3, scale h, scale w), in [-1, 1].
    """
    height, width = lq.shape[2:]
    enlarged = F.interpolate(
        lq,
        size=(height * scale, width * scale),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    return enlarged.clamp(-1, 1)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on a tensor's device, inside a context."""
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        # The meta device, for instance: there is nothing to switch off.
        return nullcontext()
    return torch.autocast(device, enabled=False)


class PosteriorMean(nn.Module):
    """The encoder of a KL autoencoder: images to the means of their latents' posteriors."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.encoder = vae.get_submodule("encoder")
        self.quant_conv = vae.get_submodule("quant_conv")

    def forward(self, image: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to means (B, 4, H / 8, W / 8)."""
        moments = self.quant_conv(self.encoder(image))
        mean, _ = moments.chunk(2, dim=1)
        return mean


class KLAutoencoder(nn.Module):
    """A KL autoencoder as :class:`distillkit.Autoencoder` wants it.

    It encodes to the posterior's mean.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image).latent_dist.mean  # type: ignore[operator]

    def decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent).sample  # type: ignore[operator]


class StableDiffusion(DiffusionModel):
    """Stable Diffusion 2.1-base, a score at any of its 1000 timesteps.

    With classifier-free guidance (Ho & Salimans 2022) it predicts ``eps_neg + w (eps_pos -
    eps_neg)``, at two UNet evaluations.

    Args:
        unet: A ``UNet2DConditionModel`` of diffusers.
        vae: An ``AutoencoderKL`` of diffusers.
        prompt: Makes the embeddings of images' prompts.
        space: Name of the autoencoder's latent space.
        negative: Embedding of the negative prompt, shape (1, length, width); None for no guidance.
        guidance: The weight w.
    """

    prediction_type = "epsilon"
    scale = 4
    size_multiple = 2
    head = "conv_out"
    codec: Autoencoder
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
        self.prompt = prompt
        self.guidance = guidance
        self.takes_captions = isinstance(prompt, PromptPerImage) and prompt.captions
        # Made from the options at every start, so no checkpoint has to hold it.
        self.register_buffer("negative", negative, persistent=False)

    @torch.no_grad()
    def condition(self, inputs: ModelInput) -> Condition:
        """Embed each image's prompt, as ``extra["prompt"]``."""
        image = enlarge(inputs.lq, self.scale)
        prompt = self.prompt(image, inputs.caption_list())
        return Condition(extra={"prompt": prompt})

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        prompt = condition.extra["prompt"]
        if self.negative is None:
            return self.network(z_t, t, prompt).sample
        z_twice = torch.cat([z_t, z_t])
        t_twice = torch.cat([t, t])
        prompts = torch.cat([self.negative.expand_as(prompt), prompt])
        predictions = self.network(z_twice, t_twice, prompts).sample
        negative, positive = predictions.chunk(2)
        return negative + self.guidance * (positive - negative)

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        raise DistillkitError(
            "superres/sd21-base offers a score only and restores nothing; superres/osediff does"
        )


class OSEDiff(StableDiffusion):
    """One step from the input's own latent, at the last timestep T = 999 (Wu et al. 2024).

    It computes ``z_0 = (z_LQ - noise(T) eps(z_LQ, T, c)) / signal(T)``, and draws no noise.
    ``signal(T)`` is 0.068, so an error of the network or of the input's latent is 14.6 times as
    large in the result. So the step is computed in the weights' own precision, whatever autocast
    says: at toy size, autocast to bfloat16 moves the result by 4 % of its spread and float16 by
    0.5 %, and sparing the last layer alone changes neither.

    The condition holds the embedded prompt and the latent of the enlarged input, which is encoded
    when first asked for. Only inputs go through the tuned encoder; the ground truth and the output
    go through the base autoencoder. The published code samples the posteriors; here their means
    are taken.

    Args:
        unet: The UNet with OSEDiff's adapters merged in.
        vae: The base autoencoder.
        lq_encoder: Its encoder with OSEDiff's adapters merged in.
        prompt: Makes the embeddings of images' prompts.
        space: Name of the autoencoder's latent space.
        tile: Side of the tiles of :func:`denoise_tiled`, in latent values.
        tile_overlap: Their overlap, in latent values.
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
    ) -> None:
        super().__init__(unet, vae, prompt, space)
        self.lq_encoder = lq_encoder
        self.tile = tile
        self.tile_overlap = tile_overlap
        self._trains_decoder = False

    @property
    def decoder(self) -> nn.Module:
        """The autoencoder's decoder, without the convolution before it."""
        return self.codec.get_submodule("network.vae.decoder")

    def replace_decoder(self, decoder: nn.Module) -> None:
        """Decode by another decoder, which stage 1 trains with the UNet."""
        self.codec.get_submodule("network.vae").decoder = decoder
        self._trains_decoder = True

    @property
    def stage1_network(self) -> nn.Module:
        if not self._trains_decoder:
            return self.network
        return nn.ModuleDict({"unet": self.network, "decoder": self.decoder})

    @torch.no_grad()
    def condition(self, inputs: ModelInput) -> Condition:
        """Embed each image's prompt, and prepare the latent of the enlarged input.

        Returns:
            ``extra`` has ``prompt``, and ``latent``, a function: a term that asks for scores only
            does not need the latent.
        """
        image = enlarge(inputs.lq, self.scale)
        with full_precision(image):
            prompt = self.prompt(image, inputs.caption_list())

        def encode() -> Tensor:
            return self.lq_encoder(image) * LATENT_SCALE

        @cache
        @torch.no_grad()
        def latent() -> Tensor:
            with full_precision(image):
                return inputs.cache("lq latent", encode)

        return Condition(extra={"prompt": prompt, "latent": latent})

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        z = condition.extra["latent"]()
        assert self.process.num_train_timesteps is not None
        last = self.process.num_train_timesteps - 1
        t = torch.full((len(z),), last, device=z.device)

        def predict_noise(tile: Tensor) -> Tensor:
            return self(tile, t, condition)

        with full_precision(z):
            epsilon = denoise_tiled(predict_noise, z, self.tile, self.tile_overlap)
        coefficients = self.process.coefficients(t)
        return (z - coefficients.noise * epsilon) / coefficients.signal
