"""Critics: networks that are trained beside the student, on what it generates."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.diffusion.model import ModelInput
from distillkit.objectives.reconstruction import Losses


@dataclass(frozen=True)
class CriticSample:
    """What the student generated for one micro-batch, without gradient."""

    latent: Tensor
    """(B, C, h, w)."""
    image: Tensor
    """(B, 3, H, W), nominally in [-1, 1]."""
    gt: Tensor
    """The ground truth, (B, 3, H, W) in [-1, 1]."""
    inputs: ModelInput
    weight: float = 1.0
    """Weight of the sample: 1 - t at tradeoff t, as the student's adversarial term has it."""


class Critic(nn.Module):
    """A network with a loss of its own; its parameters with ``requires_grad`` are trained."""

    learning_rate: float
    updates: int = 1
    """Optimizer steps for each one of the student."""

    @abstractmethod
    def losses(self, sample: CriticSample, generator: torch.Generator) -> Losses:
        """Compute its own loss terms.

        Args:
            sample: The sample of the student.
            generator: A CPU generator: new draws at each update.
        """

    def diagnose(self, sample: CriticSample) -> dict[str, Tensor]:
        """Measure what shows that training goes wrong, scalars by name."""
        return {}
