"""A complete diffusion model of a few hundred parameters, for tests of the engine."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit import CosineVariancePreserving, Identity, PixelUnshuffle
from distillkit.diffusion.codec import Codec
from distillkit.diffusion.model import Condition, DiffusionModel, ModelInput, RestorationModel
from distillkit.diffusion.prediction import PredictionType
from distillkit.diffusion.process import ForwardProcess


class ToyBlock(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.last(F.silu(self.first(hidden)))


class ToyNetwork(nn.Module):
    """Conv - SiLU - conv with the timestep as a bias, and residual blocks between if wanted."""

    def __init__(self, channels: int, width: int = 8, blocks: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.middle = ()
        if blocks:
            self.middle = nn.ModuleList(ToyBlock(width) for _ in range(blocks))

    def forward(self, z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        bias = self.time(t.float().reshape(-1, 1))
        hidden = self.first(torch.cat([z, y], dim=1)) + bias[..., None, None]
        for block in self.middle:
            hidden = block(hidden)
        return self.last(F.silu(hidden))


class Enlarger(RestorationModel):
    """A student from image to image, without a denoiser; its weights depend on ``seed`` alone."""

    def __init__(self, seed: int = 0, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.PReLU(8),
                nn.Conv2d(8, 3 * scale**2, 3, padding=1),
                nn.PixelShuffle(scale),
            )


class ToyModel(DiffusionModel):
    """A teacher or student whose weights depend on ``seed`` alone."""

    head = "last"

    def __init__(
        self,
        process: ForwardProcess | None = None,
        prediction_type: PredictionType = "v_prediction",
        codec: Codec | None = None,
        scale: int = 2,
        seed: int = 0,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.codec = codec or Identity()
        self.process = process or CosineVariancePreserving()
        self.prediction_type = prediction_type
        self.scale = scale
        latent = self.codec.encode(torch.zeros(1, 3, 8, 8))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = ToyNetwork(latent.shape[1], blocks=blocks)

    def condition(self, inputs: ModelInput) -> Condition:
        large = F.interpolate(inputs.lq, scale_factor=self.scale, mode="bicubic")
        return Condition(y=self.codec.encode(large))

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(z_t, condition.y, t)

    def generate(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        timestep = 0.5
        if self.process.num_train_timesteps is not None:
            timestep = self.process.num_train_timesteps // 2
        t = torch.full((len(condition.y),), timestep)
        return self.predict(condition.y, t, condition).sample


def unshuffled(**options: Any) -> ToyModel:
    """Create a toy in another latent space than the default one."""
    return ToyModel(codec=PixelUnshuffle(2, scale=1.5), **options)


class CaptionedToy(ToyModel):
    """A toy whose images get brighter the longer their captions are."""

    takes_captions = True
    seen: ClassVar[list[list[str | None]]] = []
    """The captions that any of these toys met."""

    def condition(self, inputs: ModelInput) -> Condition:
        captions = inputs.caption_list()
        self.seen.append(captions)
        lengths = torch.tensor([len(caption or "") for caption in captions])
        y = super().condition(inputs).y
        assert y is not None
        return Condition(y=y + 0.01 * lengths.view(-1, 1, 1, 1))
