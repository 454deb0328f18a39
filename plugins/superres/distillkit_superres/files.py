"""How a recipe names a weight file: ``"models/x.pth"``, or ``{ repo = "owner/name", filename = "x.pth" }`` for one on the Hub."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillkit import WeightFile

FOLDER = Path("weights")
"""Where published files are looked for, and fetched to, if a recipe does not say."""


class HubFile(BaseModel):
    """A file of a repository on the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str
    filename: str
    revision: str = "main"
    sha256: str | None = None


Location = Path | HubFile


def weight_file(location: Location | None, published: str, license: str, size: int) -> WeightFile:
    """``location`` as the engine's descriptor; by default the published file in :data:`FOLDER`.

    Args:
        published: its URL. A missing file can be fetched from there if its path ends in the published name.
    """
    if isinstance(location, HubFile):
        return WeightFile(**location.model_dump(), license=license, size=size)
    name = published.rpartition("/")[2]
    path = location or FOLDER / name
    return WeightFile(path=path, url=published if path.name == name else None, license=license, size=size, source=published)
