"""How a recipe names a weight file: ``"models/x.pth"``, or ``{ repo = "owner/name", filename = "x.pth" }`` for one on the Hub."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillkit import WeightFile, WeightsError


class HubFile(BaseModel):
    """A file of a repository on the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str
    filename: str
    revision: str = "main"
    sha256: str | None = None


Location = Path | HubFile


def weight_file(location: Location, license: str, size: int | None = None) -> WeightFile:
    """``location`` as the engine's descriptor."""
    if isinstance(location, Path):
        return WeightFile(path=location, license=license, size=size)
    return WeightFile(**location.model_dump(), license=license, size=size)


def fetch(file: WeightFile, origin: str) -> Path:
    """The file's path on this machine, downloaded from the Hub if need be.

    Args:
        origin: where the file is published, for the error's text.

    Raises:
        WeightsError: a path with no file, or a hash that differs.
    """
    if file.path is not None and file.find() is None:
        raise WeightsError(f"{file.path} - no such weight file; it is published as {origin} ({file.license})")
    return file.fetch()
