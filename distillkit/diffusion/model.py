"""A diffusion model is a codec, a forward process and a denoiser. Score teachers and students are both one of these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from distillkit.diffusion.codec import Codec
from distillkit.diffusion.prediction import Prediction, PredictionType, to_prediction
from distillkit.diffusion.process import ForwardProcess


@dataclass(frozen=True)
class Condition:
    """What a model knows of its input, prepared once per batch by the model itself and passed back to it unopened."""

    y: Tensor | None = None
    """The latent that ``shift(t)`` multiplies, (B, C, h, w): the one field the engine reads."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the model needs: low-quality pixels, prompt embeddings. Tensors have the batch first."""

    def twice(self) -> Condition:
        """The condition of the same inputs, one after the other two times: of ``torch.cat([z, z])``."""
        y, extra = tree_map_only(Tensor, lambda x: torch.cat([x, x]), (self.y, dict(self.extra)))
        return Condition(y, extra)


@runtime_checkable
class OutputTeacher(Protocol):
    """A teacher that only restores: it has no score to ask for at intermediate times."""

    scale: int
    """Output size divided by input size."""
    nfe: int
    """Network passes of one :meth:`restore`."""
    size_multiple: int
    """Sides of an input image must be multiples of this; the engine pads by reflection and crops the result."""

    def restore(self, lq: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Low-quality images (B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1]."""
        ...


class DiffusionModel(nn.Module):
    """A score teacher, or a student.

    A subclass sets the attributes below in its constructor and writes :meth:`condition`, :meth:`forward` and :meth:`generate`.
    """

    codec: Codec
    """Not needed by a teacher that overrides ``space``, :meth:`encode` and :meth:`decode`."""
    process: ForwardProcess
    prediction_type: PredictionType
    network: nn.Module
    """The denoiser: the part that adapters are put on and that stage 1 and 2 train."""
    scale: int = 1
    """Output size divided by input size."""
    nfe: int = 1
    """Network passes of one :meth:`generate`."""
    size_multiple: int = 1
    """Sides of an input image must be multiples of this; the engine pads by reflection and crops the result."""
    takes_captions: bool = False
    """Whether :meth:`condition` asks for :func:`~distillkit.diffusion.captions.current_captions`."""
    head: str | None = None
    """Name, inside ``network``, of its last layer; only variants that start from a zero output ask for it."""

    @abstractmethod
    def condition(self, lq: Tensor) -> Condition:
        """What the model needs to know of ``lq``, (B, 3, h, w) in [-1, 1]."""

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The raw network output at times ``t`` (B,), of the shape of ``z_t`` (B, C, h, w)."""

    @abstractmethod
    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """A clean latent (B, C, h, w) for the condition's input, in however many passes the model takes.

        As a student: carries the gradient of the trained weights (``S(x_LQ)`` of the paper).
        ``generator`` makes random draws repeatable; it lives on the CPU.
        """

    @property
    def space(self) -> str:
        """Name of the latent space. Models with equal names exchange latents without a bridge."""
        return self.codec.space

    def encode(self, image: Tensor, condition: Condition) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents, with gradient. A teacher whose latents depend on its input overrides it."""
        return self.codec.encode(image)

    def decode(self, latent: Tensor, condition: Condition) -> Tensor:
        """Latents -> images (B, 3, H, W), nominally in [-1, 1] and not clamped; overridden together with :meth:`encode`."""
        return self.codec.decode(latent)

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """The denoiser's clean latent and noise for ``z_t`` (B, C, h, w) at ``t`` (B,)."""
        return to_prediction(
            self(z_t, t, condition), self.prediction_type, self.process, z_t, t, condition.y
        )

    def restore(self, lq: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Low-quality images (B, 3, h, w) in [-1, 1] -> restored images (B, 3, scale h, scale w) in [-1, 1]."""
        condition = self.condition(lq)
        return self.decode(self.generate(condition, generator), condition).clamp(-1, 1)
