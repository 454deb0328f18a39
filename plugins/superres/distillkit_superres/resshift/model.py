"""ResShift (Yue et al. 2023) as a diffusion model.

It shifts residuals between latents of a VQ f4 autoencoder; its network predicts the clean latent.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import Autoencoder, Condition, DiffusionModel, ModelInput, ResidualShifting
from distillkit_superres.resshift.autoencoder import VQModel
from distillkit_superres.resshift.schedule import ReverseStep, ancestral
from distillkit_superres.resshift.unet import SwinUNet


class ResShift(DiffusionModel):
    """A chain of few steps from the noised latent of the upsampled input to the restored one.

    The latent that the process shifts to is ``y = E(bicubic(lq))``; the network also sees ``lq``
    itself. Gradient flows through :meth:`predict` to ``z_t``, through the codec's encoder and,
    straight through the codes, through its decoder.

    Args:
        network: The denoiser.
        autoencoder: The VQ autoencoder.
        process: Forward process at the network's timesteps.
        space: Name of the autoencoder's latent space.
        scale: Output side divided by input side.
        reverse: Factors of a reverse step; default :func:`ancestral`.
    """

    prediction_type = "sample"
    head = "out.2"
    network: SwinUNet
    process: ResidualShifting

    def __init__(
        self,
        network: SwinUNet,
        autoencoder: VQModel,
        process: ResidualShifting,
        *,
        space: str = "vq-f4",
        scale: int = 4,
        reverse: ReverseStep | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.codec = Autoencoder(autoencoder, space)
        self.process = process
        self.scale = scale
        self.reverse = reverse or ancestral(process)
        assert process.num_train_timesteps is not None
        self.nfe = process.num_train_timesteps
        self.size_multiple = network.size_multiple * autoencoder.factor // scale

    def condition(self, inputs: ModelInput) -> Condition:
        """Encode the upsampled input, as ``y``, and pass on the input, as ``extra["lq"]``."""

        def encode() -> Tensor:
            upsampled = F.interpolate(
                inputs.lq,
                scale_factor=self.scale,
                mode="bicubic",
                align_corners=False,
            )
            return self.codec.encode(upsampled)

        y = inputs.cache("lq latent", encode)
        return Condition(y=y, extra={"lq": inputs.lq})

    def scale_input(self, z: Tensor, t: Tensor) -> Tensor:
        """Scale latents for the network: ``z / sqrt(kappa^2 eta_t + 1)``.

        The result has unit spread if a clean latent has.
        """
        variance = self.process.coefficients(t).noise ** 2
        return z / (variance + 1).sqrt()

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(self.scale_input(z_t, t), t, condition.extra["lq"])

    def prior(self, condition: Condition, noise: Tensor) -> Tensor:
        """Make the start of the chain, ``y + kappa sqrt(eta_T) eps``.

        It is centered on ``y``, as if eta_T were 1.
        """
        assert condition.y is not None
        last = torch.tensor([self.nfe - 1], device=noise.device)
        return condition.y + self.process.coefficients(last).noise * noise

    def chain(
        self,
        condition: Condition,
        noises: Iterator[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the reverse chain, from the noisiest timestep on.

        Args:
            condition: From :meth:`condition`.
            noises: The noise of the prior, then that of each step, each of the shape of
                ``condition.y``.

        Yields:
            ``z_{t-1}`` and the network's clean latent, after each step.
        """
        y = condition.y
        assert y is not None
        z = self.prior(condition, next(noises))
        for timestep in reversed(range(self.nfe)):
            t = torch.full((y.shape[0],), timestep, device=y.device)
            sample = self(z, t, condition)
            z = self.reverse(t, sample, z, y, next(noises))
            yield z, sample

    def generate(
        self,
        condition: Condition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        y = condition.y
        assert y is not None
        *_, (z, _) = self.chain(condition, _normal_like(y, generator))
        return z


def _normal_like(
    latent: Tensor,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Draw standard normal noise on the CPU, tensor after tensor."""
    while True:
        yield torch.randn(latent.shape, generator=generator).to(latent)
