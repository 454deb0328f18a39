"""Checkpoints that spandrel reads, as output teachers for distillkit: the light descriptor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from distillkit import TeacherSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    from distillkit_spandrel.teacher import Checkpoint

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LocalFile(BaseModel):
    """A file on this machine, where it is downloaded from when it is missing, and the hash that it has to have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    url: str | None = None
    sha256: Sha256 | None = None


class HubFile(BaseModel):
    """A file of a repository on the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str
    filename: str
    revision: str = "main"
    sha256: Sha256 | None = None


class Options(BaseModel):
    """Options of ``spandrel/checkpoint``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Path | LocalFile | HubFile = Field(
        description="the checkpoint; its architecture is read from its tensors"
    )
    license: str = Field(
        "unknown",
        pattern=r'^[^"|\\\r\n]+$',
        description="the checkpoint's, which is not in the file; it goes into the model card, where unknown is all rights reserved",
    )
    scale: int | None = Field(None, ge=1, description="refuse a checkpoint of another scale")

    def file(self) -> WeightFile:
        """The checkpoint as the engine's descriptor."""
        given = (
            {"path": self.weights} if isinstance(self.weights, Path) else self.weights.model_dump()
        )
        return WeightFile(**given, license=self.license)


def _weights(options: Options) -> tuple[WeightFile, ...]:
    return (options.file(),)


def _build(options: Options) -> Checkpoint:
    from distillkit_spandrel.teacher import load

    return load(options.file().fetch(), options.scale)


@hookimpl
def distillkit_teachers() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name="checkpoint",
            summary="a checkpoint that spandrel reads (ESRGAN, SwinIR, HAT, NAFNet, ...); gives its output only",
            config=Options,
            build=_build,
            weights=_weights,
            capabilities=frozenset({"output"}),
        )
    ]
