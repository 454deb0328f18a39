"""What a recipe may set."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from distillkit import Options, WeightFile

License = Annotated[
    str,
    Field(
        pattern=r'^[^"|\\\r\n]+$',
        description="the checkpoint's license, which is not in the file; it goes into the model "
        "card, where unknown counts as all rights reserved",
    ),
]


class TeacherOptions(Options):
    """Options of ``spandrel/checkpoint``."""

    weights: WeightFile = Field(
        description="the checkpoint; its architecture is read from its tensors"
    )
    license: License = "unknown"
    scale: int | None = Field(None, ge=1, description="refuse a checkpoint of another scale")

    def weight_files(self) -> tuple[WeightFile, ...]:
        file = self.weights.model_copy(update={"license": self.license})
        return (file,)


class StudentOptions(Options):
    """Options of ``spandrel/student``: a checkpoint, or an architecture with random weights."""

    weights: WeightFile | None = Field(
        None, description="the checkpoint to start from; its architecture is read from its tensors"
    )
    license: License = "unknown"
    architecture: str | None = Field(
        None, description="a network of spandrel's to start from random weights: Compact, SPAN, ..."
    )
    parameters: dict[str, Any] = Field(
        default={}, description="keyword arguments of the architecture, over those of its preset"
    )
    scale: int | None = Field(
        None, ge=1, description="the scale: picks the architecture's preset, refuses another scale"
    )
    seed: int = Field(0, ge=0, description="seed of the random weights")

    @model_validator(mode="after")
    def _check_that_it_names_one_start(self) -> Self:
        if (self.weights is None) == (self.architecture is None):
            raise ValueError("give either weights, a checkpoint, or an architecture")
        if self.weights is not None and self.parameters:
            raise ValueError(
                "parameters belong to an architecture; those of weights are read from the file"
            )
        return self

    def weight_files(self) -> tuple[WeightFile, ...]:
        if self.weights is None:
            return ()
        file = self.weights.model_copy(update={"license": self.license})
        return (file,)
