"""The smallest plugin: a teacher that enlarges and sharpens, and a degradation that shrinks and adds grain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import distillkit
from distillkit import DegradationSpec, TeacherSpec, hookimpl

if TYPE_CHECKING:  # heavy imports wait until somebody uses the plugin
    from torch import Generator, Tensor


class Options(distillkit.Options):
    scale: int = Field(
        4, ge=1, description="size of the clean image divided by that of the degraded one"
    )
    strength: float = Field(
        0.3, ge=0, description="how much is sharpened; standard deviation of the strongest grain"
    )


class Sharpen:
    """An output teacher: it can restore an image, but has no score to ask for."""

    nfe = size_multiple = 1

    def __init__(self, options: Options) -> None:
        self.scale, self.strength = options.scale, options.strength

    def restore(self, lq: Tensor, generator: Generator | None = None) -> Tensor:
        import torch.nn.functional as F

        large = F.interpolate(lq, scale_factor=self.scale, mode="bicubic")
        soft = F.avg_pool2d(F.pad(large, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        return (large + self.strength * (large - soft)).clamp(-1, 1)


class Grain:
    """A degradation: every image of the batch draws its own amount of grain."""

    def __init__(self, options: Options) -> None:
        self.scale, self.strength = options.scale, options.strength

    def __call__(self, gt: Tensor, generator: Generator) -> Tensor:
        import torch

        small = torch.nn.functional.avg_pool2d(gt, self.scale)
        amount = self.strength * torch.rand(len(gt), 1, 1, 1, generator=generator)
        grain = amount * torch.randn(
            small.shape, generator=generator
        )  # drawn on the CPU: the same on every device
        return (
            (small + grain.to(gt.device)).clamp(-1, 1) * 127.5 + 127.5
        ).round() / 127.5 - 1  # 8 bits, as a file holds


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    about = "bicubic enlargement and an unsharp mask"
    return [
        TeacherSpec(
            name="sharpen",
            summary=about,
            config=Options,
            build="distillkit_example:Sharpen",
            capabilities=frozenset({"output"}),
        )
    ]


@hookimpl
def distillkit_degradations() -> list[DegradationSpec]:
    return [
        DegradationSpec(
            name="grain",
            summary="area averaging and grain",
            config=Options,
            build="distillkit_example:Grain",
        )
    ]
