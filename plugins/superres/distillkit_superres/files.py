"""How a recipe names a weight file.

``"models/x.pth"``, or with its hash ``{ path = "models/x.pth", sha256 = "..." }``; one on the Hub
``{ repo = "owner/name", filename = "x.pth" }``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from distillkit import WeightFile

FOLDER = Path("weights")
"""Where published files are looked for, and fetched to, if a recipe does not say."""


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LocalFile(BaseModel):
    """A file on this machine, and the hash that it has to have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    sha256: Sha256


class HubFile(BaseModel):
    """A file of a repository on the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str
    filename: str
    revision: str = "main"
    sha256: Sha256 | None = None


Location = Path | LocalFile | HubFile


def weight_file(location: Location | None, published: str, license: str, size: int) -> WeightFile:
    """``location`` as the engine's descriptor; by default the published file in :data:`FOLDER`.

    Args:
        published: its URL. A missing file can be fetched from there if its path ends in the published name.
    """
    if isinstance(location, HubFile):
        return WeightFile(**location.model_dump(), license=license, size=size)
    name = published.rpartition("/")[2]
    path, sha256 = (
        (location.path, location.sha256)
        if isinstance(location, LocalFile)
        else (location or FOLDER / name, None)
    )
    url = published if path.name == name else None
    return WeightFile(
        path=path, url=url, sha256=sha256, license=license, size=size, source=published
    )
