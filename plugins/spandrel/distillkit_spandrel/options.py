"""What a recipe may set."""

from __future__ import annotations

from pydantic import Field

import distillkit
from distillkit import WeightFile


class Options(distillkit.Options):
    """Options of ``spandrel/checkpoint``."""

    weights: WeightFile = Field(
        description="the checkpoint; its architecture is read from its tensors"
    )
    license: str = Field(
        "unknown",
        pattern=r'^[^"|\\\r\n]+$',
        description="the checkpoint's license, which is not in the file; it goes into the model "
        "card, where unknown counts as all rights reserved",
    )
    scale: int | None = Field(None, ge=1, description="refuse a checkpoint of another scale")

    def weight_files(self) -> tuple[WeightFile, ...]:
        file = self.weights.model_copy(update={"license": self.license})
        return (file,)
