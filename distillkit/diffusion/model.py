"""Models: a student is a codec and a network; one with a score adds a forward process."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from distillkit.diffusion.codec import Codec, Identity
from distillkit.diffusion.prediction import Prediction, PredictionType, to_prediction
from distillkit.diffusion.process import ForwardProcess
from distillkit.errors import DistillkitError

FeatureLookup = Callable[[str, Callable[[], Tensor]], Tensor]
"""``lookup(name, compute)``: the result of ``compute()``, from a cache where it holds one."""


def compute_always(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """Compute the feature: the lookup where there is no cache."""
    return compute()


@dataclass(frozen=True)
class ModelInput:
    """What a model restores: low-quality images and what is known about them."""

    lq: Tensor
    """(B, 3, h, w) in [-1, 1]."""
    captions: Sequence[str | None] | None = None
    """A text for each image, None for an image without one. None: no image has one."""
    cache: FeatureLookup = compute_always
    """Where a model may keep what it encodes of these images.

    It is for parts that are never trained, computed from the images alone, without gradient and
    without random draws: ``inputs.cache("lq latent", lambda: self.codec.encode(enlarged))``.
    """

    def __post_init__(self) -> None:
        if self.captions is not None and len(self.captions) != len(self.lq):
            raise DistillkitError(
                f"{len(self.captions)} captions for {len(self.lq)} images; a batch needs one each"
            )

    def caption_list(self) -> list[str | None]:
        """Return one entry per image, whether or not captions were given."""
        if self.captions is None:
            return [None] * len(self.lq)
        return list(self.captions)


@dataclass(frozen=True)
class Condition:
    """What a model prepared from its input, once per batch; the engine passes it back unopened."""

    y: Tensor | None = None
    """The latent that ``shift(t)`` multiplies, (B, C, h, w): the one field the engine reads."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the model needs: low-quality pixels, prompt embeddings. Batch comes first."""

    def doubled(self) -> Condition:
        """Repeat the batch, for a pass over ``torch.cat([z, z])``."""
        y, extra = tree_map_only(Tensor, lambda x: torch.cat([x, x]), (self.y, dict(self.extra)))
        return Condition(y, extra)


@runtime_checkable
class OutputTeacher(Protocol):
    """A teacher that only restores: it has no score at intermediate timesteps."""

    scale: int
    """Output size divided by input size."""
    nfe: int
    """Network evaluations of one :meth:`restore`."""
    size_multiple: int
    """Input sides must be multiples of this: the network's total stride, in input pixels.

    The engine pads by reflection and crops the result; tiles start at its multiples.
    """

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore ``inputs.lq`` (B, 3, h, w) to (B, 3, scale h, scale w), both in [-1, 1]."""
        ...


class RestorationModel(nn.Module):
    """A student: a codec, and a network that restores in its latent space.

    As it stands, it is a network from image to image, called once. A subclass then sets
    ``network`` and ``scale`` in its constructor, and nothing else is needed.
    """

    codec: Codec
    """Pixels, unless a subclass sets another one."""
    network: nn.Module
    """What both stages train: adapters go on it."""
    scale: int = 1
    """Output size divided by input size."""
    nfe: int = 1
    """Network evaluations of one :meth:`generate`."""
    size_multiple: int = 1
    """Input sides must be multiples of this: the network's total stride, in input pixels.

    The engine pads by reflection and crops the result; tiles start at its multiples.
    """
    takes_captions: bool = False
    """Whether :meth:`condition` reads ``inputs.captions``."""

    def __init__(self) -> None:
        super().__init__()
        # Not a default of the class: torch would find it before a codec that is a module.
        self.codec = Identity()

    def condition(self, inputs: ModelInput) -> Condition:
        """Prepare what the model needs to know about ``inputs``."""
        return Condition(extra={"lq": inputs.lq})

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """Generate a clean latent (B, C, h, w) in however many passes the model takes.

        A student's carries the gradient of the trained weights (``S(x_LQ)`` of the paper).

        Args:
            condition: The condition of the input.
            generator: A CPU generator that makes random draws repeatable.
        """
        return self.network(condition.extra["lq"])

    @property
    def stage1_network(self) -> nn.Module:
        """What stage 1 trains: :attr:`network`; override it to add a decoder.

        Stage 2 trains ``network`` alone, so all tradeoffs are decoded alike.
        """
        return self.network

    @property
    def space(self) -> str:
        """Name of the latent space: models with equal names exchange latents directly."""
        return self.codec.space

    def encode(self, image: Tensor, condition: Condition) -> Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to latents, with gradient.

        Override it where a teacher's latents depend on its input.
        """
        return self.codec.encode(image)

    def decode(self, latent: Tensor, condition: Condition) -> Tensor:
        """Decode latents to images (B, 3, H, W), nominally in [-1, 1] and not clamped.

        Override it together with :meth:`encode`.
        """
        return self.codec.decode(latent)

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore ``inputs.lq`` (B, 3, h, w) to (B, 3, scale h, scale w), both in [-1, 1]."""
        condition = self.condition(inputs)
        latent = self.generate(condition, generator)
        return self.decode(latent, condition).clamp(-1, 1)


class DiffusionModel(RestorationModel):
    """A score teacher, or a student with a denoiser.

    A subclass sets the attributes below and those of :class:`RestorationModel` in its constructor
    and writes :meth:`condition`, :meth:`forward` and :meth:`generate`.
    """

    codec: Codec
    """Not needed by a teacher that overrides ``space``, :meth:`encode` and :meth:`decode`."""
    process: ForwardProcess
    prediction_type: PredictionType
    network: nn.Module
    """The denoiser: adapters go on it, and both stages train it."""
    head: str | None = None
    """Name, inside ``network``, of its last layer, which OFTSR sets to 0 at its start."""

    @abstractmethod
    def condition(self, inputs: ModelInput) -> Condition:
        """Prepare what the model needs to know about ``inputs``."""

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the raw network output at timesteps ``t`` (B,), shaped as ``z_t`` (B, C, h, w)."""

    @abstractmethod
    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        """Generate a clean latent (B, C, h, w), as :meth:`RestorationModel.generate`."""

    def predict(self, z_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """Predict the clean latent and the noise in ``z_t`` (B, C, h, w) at ``t`` (B,)."""
        output = self(z_t, t, condition)
        return to_prediction(output, self.prediction_type, self.process, z_t, t, condition.y)


def with_own_network(model: DiffusionModel) -> DiffusionModel:
    """Copy a model's network; everything else is shared with the model."""
    copied = copy.copy(model)
    # A table of modules of its own, or the assignment below would change the model's.
    copied.__dict__["_modules"] = dict(model._modules)
    copied.network = copy.deepcopy(model.network)
    return copied
