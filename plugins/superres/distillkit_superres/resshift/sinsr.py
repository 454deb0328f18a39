"""SinSR (Wang et al. 2024): the ResShift network distilled to one step."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from distillkit import Condition, DistillkitError, ModelInput
from distillkit_superres.resshift.model import ResShift


class SinSR(nn.Module):
    """An output teacher: the network's clean latent at the last timestep, decoded.

    Args:
        model: The network with its autoencoder and the process it was distilled from. Its other
            timesteps have lost their meaning: timestep 0 was trained to turn a clean latent back
            into the start of the chain.
    """

    nfe = 1

    def __init__(self, model: ResShift) -> None:
        super().__init__()
        self.model = model
        self.scale = model.scale
        self.size_multiple = model.size_multiple

    def one_step(self, condition: Condition, noise: Tensor) -> Tensor:
        """Predict the clean latent ``f(y + kappa sqrt(eta_T) eps, T)``, shape (B, C, h, w)."""
        z = self.model.prior(condition, noise)
        last = self.model.nfe - 1
        t = torch.full((len(z),), last, device=z.device)
        return self.model(z, t, condition)

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore images by one step from noise.

        Args:
            inputs: Images of shape (B, 3, h, w), in [-1, 1].
            generator: Source of the noise, on the CPU.

        Returns:
            Images of shape (B, 3, scale h, scale w), clamped to [-1, 1].
        """
        condition = self.model.condition(inputs)
        y = condition.y
        assert y is not None
        noise = torch.randn(y.shape, generator=generator).to(y)
        latent = self.one_step(condition, noise)
        return self.model.codec.decode(latent).clamp(-1, 1)

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> NoReturn:
        """Refuse to predict: there is no score to ask for.

        Raises:
            DistillkitError: Always.
        """
        raise DistillkitError(
            "superres/sinsr - cannot be asked for a score: it was distilled at one timestep only "
            "and knows no noise level in between; "
            'ask it for its output (term = "output"), or use superres/resshift'
        )
