"""Checkpoints that spandrel reads, as output teachers for distillkit: the light descriptor."""

from __future__ import annotations

from pydantic import Field

import distillkit
from distillkit import TeacherSpec, WeightFile, hookimpl


class Options(distillkit.Options):
    """Options of ``spandrel/checkpoint``."""

    weights: WeightFile = Field(
        description="the checkpoint; its architecture is read from its tensors"
    )
    license: str = Field(
        "unknown",
        pattern=r'^[^"|\\\r\n]+$',
        description="the checkpoint's, which is not in the file; it goes into the model card, where unknown is all rights reserved",
    )
    scale: int | None = Field(None, ge=1, description="refuse a checkpoint of another scale")

    def weight_files(self) -> tuple[WeightFile, ...]:
        return (self.weights.model_copy(update={"license": self.license}),)


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name="checkpoint",
            summary="a checkpoint that spandrel reads (ESRGAN, SwinIR, HAT, NAFNet, ...); gives its output only",
            config=Options,
            build="distillkit_spandrel.teacher:build",
            capabilities=frozenset({"output"}),
        )
    ]
